"""WebDataset tars with an index: written, read, stripped of metadata, checked, written again."""
