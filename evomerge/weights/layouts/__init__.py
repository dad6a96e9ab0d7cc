"""Models whose tensors have other names than the base's, or are joined or split differently."""
