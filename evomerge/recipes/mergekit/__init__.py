"""mergekit's YAML: read as recipes, and written for mergekit 0.1.5."""

from evomerge.recipes.mergekit.documents import from_documents, from_mergekit, is_mergekit
from evomerge.recipes.mergekit.read import Note, ignore
from evomerge.recipes.mergekit.write import to_mergekit

__all__ = ["Note", "from_documents", "from_mergekit", "ignore", "is_mergekit", "to_mergekit"]
