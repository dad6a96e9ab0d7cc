"""Every exception that evomerge raises on purpose.

EvomergeError
├── InputError                 the person's input is wrong: exit code 2, nothing was written
│   ├── ConfigError            a search, space or fitness YAML
│   ├── RecipeError            a recipe, or a YAML that should be one
│   ├── CheckpointError        a model folder or a safetensors file
│   ├── PlanError              models that do not fit together
│   ├── ExportError            a recipe that the target format cannot express
│   └── RunError               a run folder: none there, already there, in use
├── CandidateError             one candidate cannot be built or scored: recorded, search goes on
│   └── OperatorError          an operator was given parameters outside its domain
├── OutputError                a file that cannot be written, e.g. a full disk: exit code 1
└── SearchError                the search cannot go on: exit code 1
    ├── MachineError           a full disk, a lost mount: nothing is recorded, the run can go on
    ├── ReplayError            a stored history that this code does not reproduce
    ├── SourceChangedError     a model's files are no longer those that were opened
    └── StoreError             a database that cannot be read or written
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

_MOST_SHOWN = 100  # characters of a wrong value, or of a key
_MOST_SAID = 4000  # characters of one mistake


def shown(value: Any, most: int = _MOST_SHOWN) -> str:
    """Python's words for a value, cut to ``most`` characters; what is not shown is not made."""
    return _cut(_shown(value, most), most)


def _shown(value: Any, room: int) -> str:
    """Python's words for a value, or a beginning of them that is longer than ``room``."""
    if isinstance(value, str | bytes):
        return repr(value[: room + 1])
    if isinstance(value, dict):
        return f"{{{_listed(value.items(), room)}}}"
    if isinstance(value, list):
        return f"[{_listed(value, room)}]"
    if isinstance(value, tuple):
        return f"({_listed(value, room)}{',' * (len(value) == 1)})"
    if isinstance(value, int) and value.bit_length() > 1000:
        return "a number of more than 300 digits"
    return repr(value)


def _listed(items: Iterable[Any], room: int) -> str:
    text = ""
    pairs = isinstance(items, type({}.items()))
    for item in items:
        if len(text) > room:
            break
        left = room - len(text)
        words = ": ".join(_shown(part, left) for part in item) if pairs else _shown(item, left)
        text += f", {words}" if text else words
    return text


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in what a person supplied; ``str`` gives the sentence that they read.

    Attributes:
        path: keys from the outside in, with indices into lists: ``("stages", 0, "budget")``.
        text: what is wrong there: expected and got.
        cure: what to do about it, where the text does not say.
        about: other keys that this depends on, and names in it that nothing has.
        file: where the keys are, e.g. ``search.yaml``.
    """

    path: tuple[str | int, ...]
    text: str
    cure: str = ""
    about: tuple[str, ...] = ()
    file: str = ""

    def __str__(self) -> str:
        place = ".".join(_cut(str(key), _MOST_SHOWN) for key in self.path)
        sentence = ": ".join(part for part in (self.file, place, self.text) if part)
        sentence = _cut(sentence, _MOST_SAID)
        return f"{sentence} {_cut(self.cure.lstrip(), _MOST_SAID)}" if self.cure else sentence

    def under(self, *keys: str | int) -> Problem:
        """A copy whose path begins with these keys."""
        return replace(self, path=(*keys, *self.path))

    def within(self, file: str) -> Problem:
        """A copy that names this file, unless a file is named already."""
        return self if self.file else replace(self, file=file)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def listed(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class WrongValuesError(ValueError):
    """Several wrong values, each a sentence or `Problem`, for a validator to raise at once."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class EvomergeError(Exception):
    """Root of the tree above."""


class InputError(EvomergeError):
    """One or more mistakes in what a person supplied, all reported at once.

    Args:
        problems: one or several, each a `Problem` or a sentence: where, expected, got, cure.

    Attributes:
        details: the mistakes as data.
        problems: the mistakes as sentences.
    """

    def __init__(self, problems: str | Problem | Iterable[str | Problem]) -> None:
        every = (problems,) if isinstance(problems, str | Problem) else problems
        self.details = tuple(Problem((), p) if isinstance(p, str) else p for p in every)
        self.problems = tuple(map(str, self.details))
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
    """A recipe cannot be expressed in the target format."""


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


class MachineError(SearchError):
    """A disk, a network or a process has failed, which says nothing of any candidate."""


class ReplayError(SearchError):
    """The stored history differs from what this code produces from the same seed."""


class SourceChangedError(SearchError):
    """A file that scores depend on is no longer as it was when the work began."""


class StoreError(SearchError):
    """The run's database cannot be read or written."""
