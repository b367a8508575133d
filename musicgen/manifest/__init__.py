"""Manifests: the rows a person wrote, read as a stream, checked, and turned into requests."""
