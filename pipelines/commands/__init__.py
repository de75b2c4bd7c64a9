"""All typer code: options in, one call of a job, a summary out."""
