"""What a config and names tell of a model: blocks, roles, and how Transformers holds it."""
