"""Where it runs: Ray actors that each hold a model, and the dispatcher that keeps them in shards."""
