"""Validation of a search YAML part by part, so that all of its problems are reported at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from evomerge.config.schema import SearchFile
from evomerge.errors import ConfigError, InputError, Problem
from evomerge.plugins.registry import explain

T = TypeVar("T")
KeyPath = tuple[str | int, ...]  # of a key: ("space",), ("stages", 0, "space")

_OF_STAGES = ("space", "optimizer", "budget")  # what a search without stages has itself
_STAND_INS_OF_A_STAGE: dict[str, Any] = {
    "name": "x",
    "space": {},
    "budget": {"evaluations": 1},
}
_STAND_INS: dict[str, Any] = {
    **_STAND_INS_OF_A_STAGE,
    "base": "x",
    "sources": {"x": "x"},
    "fitness": {"tasks": ["x"]},
}


@dataclass(frozen=True, slots=True)
class ProblemCollector:
    """Makes the parts of a search, and collects the problems of all of them.

    Attributes:
        file: whose keys these are, for messages.
        problems: all so far.
        invalid: keys that are wrong, so that nothing more can be said of what needs them.
        path: of the part at hand, e.g. ``("stages", 0)``.
        label: the same for messages, e.g. ``("stages", "merge")``.
    """

    file: str
    problems: list[Problem] = field(default_factory=list)
    invalid: set[KeyPath] = field(default_factory=set)
    path: KeyPath = ()
    label: KeyPath = ()

    def make(
        self,
        new: Callable[..., T],
        *args: Any,
        at: str = "",
        needs: Iterable[str] = (),
        needs_own: Iterable[str] = (),
    ) -> T | None:
        """What ``new`` returns, or None where it fails or a key that it needs is wrong.

        Args:
            at: the key that its problems are of, where their paths do not begin with it.
            needs: keys of the search.
            needs_own: keys of the part at hand.
        """
        keys = [*((key,) for key in needs), *((*self.path, key) for key in needs_own)]
        if not self.invalid.isdisjoint(keys):
            return None
        try:
            return new(*args)
        except InputError as error:
            path = (*self.label, at) if at else self.label
            for problem in error.details:
                # what an engine finds wrong with itself is so wherever it is asked
                above = () if problem.path[:1] == ("engine",) else path
                self.problems.append(problem.under(*above).within(self.file))
            return None

    def part(self, *path: str | int, label: KeyPath) -> ProblemCollector:
        """A collector for the part of the search at ``path``, which has keys of its own."""
        return replace(self, path=path, label=label)

    def validated(self, content: dict[str, Any]) -> SearchFile:
        """The search, with stand-ins for the keys that are wrong."""
        while True:  # what is wrong with some keys is seen once others are right
            known = len(self.invalid)
            try:
                return SearchFile.model_validate(_without(content, self.invalid))
            except ValidationError as error:
                self.problems.extend(explain(error, SearchFile, file=self.file))
                self.invalid.update(_key(item["loc"]) for item in error.errors())
            if ("stages",) in self.invalid:
                self.invalid.update((key,) for key in _OF_STAGES)
            if len(self.invalid) == known:
                self.stop()

    def stop(self) -> None:
        """Raise if there are problems.

        Raises:
            ConfigError: all of them, each once.
        """
        if self.problems:
            raise ConfigError({str(problem): problem for problem in self.problems}.values())


def _key(path: KeyPath) -> KeyPath:
    """The key that a problem is in, of the search or of a stage."""
    return path[:3] if path[0] == "stages" and len(path) > 2 else path[:1]


def _without(content: dict[str, Any], invalid: Collection[KeyPath]) -> dict[str, Any]:
    """The content with stand-ins for wrong keys, and without the wrong ones that are optional."""
    kept = _replaced(content, (), _STAND_INS, invalid)
    stages = kept.get("stages")
    if not isinstance(stages, list):
        return kept
    kept["stages"] = [
        _replaced(stage, ("stages", index), _STAND_INS_OF_A_STAGE, invalid)
        if isinstance(stage, dict)
        else stage
        for index, stage in enumerate(stages)
    ]
    return {k: v for k, v in kept.items() if k not in _OF_STAGES or (k,) not in invalid}


def _replaced(
    keys: dict[str, Any], path: KeyPath, stand_ins: dict[str, Any], invalid: Collection[KeyPath]
) -> dict[str, Any]:
    valid = {key: value for key, value in keys.items() if (*path, key) not in invalid}
    return valid | {k: value for k, value in stand_ins.items() if (*path, k) in invalid}
