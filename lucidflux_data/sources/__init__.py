"""Where candidates come from: folders, globs, tars, Parquet, web servers."""
