"""The LucidFlux model: conditioner, inference, training."""
