"""Statistics of a model on data, which some operators weigh its weights by.

`Fisher` and `Gram` gather, `collect` feeds them and writes the folder that
`evomerge.weights.statistics` reads.
"""

from evomerge.statistics.collect import Collected, collect
from evomerge.statistics.collection import Collection

__all__ = ["Collected", "Collection", "collect"]
