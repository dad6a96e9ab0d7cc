"""Every exception that evomerge raises on purpose.

EvomergeError
├── InputError                 the person's input is wrong: exit code 2, nothing was written
│   ├── ConfigError            a search, space or fitness YAML
│   ├── RecipeError            a recipe, or a YAML that should be one
│   ├── CheckpointError        a model folder or a safetensors file
│   ├── PlanError              models that do not fit together
│   ├── ExportError            a recipe that the wanted format cannot express
│   └── RunError               a run folder: none there, already there, in use
├── CandidateError             one candidate cannot be built or scored: recorded, search goes on
│   └── OperatorError          an operator was given parameters outside its domain
├── OutputError                a file that cannot be written, e.g. a full disk: exit code 1
└── SearchError                the search cannot go on: exit code 1
    ├── ReplayError            a stored history that this code does not reproduce
    └── StoreError             a database that cannot be read or written
"""

from __future__ import annotations

from collections.abc import Iterable


class EvomergeError(Exception):
    """Root of the tree above."""


class InputError(EvomergeError):
    """One or more mistakes in what a person supplied, all reported at once.

    Args:
        problems: a sentence, or one sentence per mistake: where, expected, got, cure.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(InputError):
    """A search, space or fitness YAML is wrong."""


class RecipeError(InputError):
    """A recipe is wrong."""


class CheckpointError(InputError):
    """A model folder or a safetensors file is missing, damaged or holds NaN."""


class PlanError(InputError):
    """The models of a recipe do not fit together."""


class ExportError(InputError):
    """A recipe cannot be expressed in the wanted format."""


class RunError(InputError):
    """A run folder is missing, taken, or in use by another process."""


class CandidateError(EvomergeError):
    """One candidate cannot be built or scored; the search goes on."""


class OperatorError(CandidateError):
    """An operator was given tensors or parameters outside its domain."""


class OutputError(EvomergeError):
    """A file or folder cannot be written."""


class SearchError(EvomergeError):
    """The search cannot go on."""


class ReplayError(SearchError):
    """The stored history differs from what this code produces from the same seed."""


class StoreError(SearchError):
    """The run's database cannot be read or written."""
