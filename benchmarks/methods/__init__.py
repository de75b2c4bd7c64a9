"""Methods: folders of outputs, adapters that run a published repository, checks of what they wrote."""
