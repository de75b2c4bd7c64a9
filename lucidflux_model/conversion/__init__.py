"""Published weights: downloaded, converted both ways, compared with golden tensors."""
