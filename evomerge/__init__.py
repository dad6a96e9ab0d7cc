"""evomerge searches for the best way to merge existing language models."""

__version__ = "0.2.2"
