"""Checkpoints on disk: read lazily, planned from headers, merged as a stream, written in shards."""
