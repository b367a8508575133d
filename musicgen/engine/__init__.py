"""The generation engine: a fixed set of slots over a step that costs what is live."""
