"""Statistics of a model on data, by which some operators weigh its weights.

`Fisher`, `SecondMoments` and `GramMatrices` compute them; `collect` runs the model on the data and
writes the folder that `evomerge.weights.statistics` reads.
"""

from evomerge.statistics.collect import Collected, collect
from evomerge.statistics.collection import Collection

__all__ = ["Collected", "Collection", "collect"]
