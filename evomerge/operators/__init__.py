"""Merge operators: pure maths from tensors to one tensor, one per file.

The file's name is the operator's public name; its keyword arguments are its YAML keys.

>>> from evomerge.operators import apply
>>> apply("task_arithmetic", base=[1.0, 2.0], sources=[[2.0, 2.0]], weights=[0.5])
tensor([1.5000, 2.0000])
"""

from evomerge.operators._apply import apply, combine
from evomerge.operators._operator import Bound, Operator, get, operator

__all__ = ["Bound", "Operator", "apply", "combine", "get", "operator"]
