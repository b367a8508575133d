"""What runs when: the Prefect flow `synthesize` and the command line."""
