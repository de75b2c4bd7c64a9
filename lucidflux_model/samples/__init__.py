"""Training samples: from shards of pairs, stock tars, folders, or encoded once and cached."""
