"""Model families: each folder here is one, and nothing outside of it asks which family a model is of."""
