"""Runs a plan on Ray actors that each hold a model; a dispatcher gives them shards."""
