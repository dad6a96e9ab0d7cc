"""LoRA adapters: on their base in place of a model, and added up as one adapter."""
