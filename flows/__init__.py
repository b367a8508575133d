"""The Prefect flow `synthesize`, and the command line."""
