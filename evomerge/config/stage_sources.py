"""``stage:NAME``: the best recipe of an earlier stage as a model of a later one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.config.schema import SearchFile, StageKeys
from evomerge.errors import ConfigError, Problem, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import ROLES, Recipe

_WINNER = "stage:"  # before the name of a stage: its best recipe


@dataclass(frozen=True, slots=True)
class SourceNames:
    """The models that a stage may name: sources of the search, and winners of earlier stages.

    Attributes:
        file: the search.
        stand_ins: by stage so far, the recipe that stands in for its winner; the base where the
            stage is wrong.
    """

    file: SearchFile
    stand_ins: dict[str, str | Recipe] = field(default_factory=dict)

    def in_stage(self, keys: StageKeys) -> list[str]:
        """What a stage calls its sources; those that only its space names come first."""
        listed = self.file.sources if keys.sources is None else keys.sources
        named = [name for name, _ in _winners_in(keys.space, ("space",))] if keys.space else ()
        return list(dict.fromkeys([*(name for name in named if name not in listed), *listed]))

    def winners(self, keys: StageKeys, *, complete: bool) -> tuple[str, ...]:
        """The earlier stages whose winners are among a stage's sources.

        Args:
            complete: whether all earlier stages have valid names; else any name may be theirs.

        Raises:
            ConfigError: names of no earlier stage, or of no source.
        """
        names = self.in_stage(keys)
        winners = [recipe_name(name) for name in names if is_winner(name)]
        places = dict(reversed(list(_winners_in(keys.space, ("space",))))) if keys.space else {}
        problems = []
        for name in winners:
            path, text = places.get(_WINNER + name, ("sources",)), f"{_WINNER}{name}:"
            stand_in = self.stand_ins.get(name)
            if stand_in is None and complete:
                problems.append(Problem(path, f"{text} {self._no_stage(name, keys)}"))
            elif isinstance(stand_in, Recipe) and stand_in.slices:
                text = (
                    f"{text} its best recipe may have more blocks than the base, or fewer, which "
                    "no space can take."
                )
                problems.append(Problem(path, text, "Stack blocks in the last stage."))
        for name in names:
            if not is_winner(name) and name not in self.file.sources:
                cure = self.hint([name]) or did_you_mean(name, self.file.sources)
                text = f"{shown(name)} is no source of the search."
                problems.append(Problem(("sources",), text, cure))
        if not names:
            problems.append(Problem(("sources",), "name at least one, or leave this key out"))
        if problems or not self.stand_ins.keys() >= set(winners):
            raise ConfigError(problems)
        return tuple(winners)

    def hint(self, names: Iterable[str]) -> str:
        """How to name the winner of a stage, where one of these is the stage's bare name."""
        bare = (name for name in names if name in self.stand_ins)
        return next((f" The best of that stage is called '{_WINNER}{name}'." for name in bare), "")

    def check(self, stage: str) -> None:
        """Raise for the name of a stage that means something else already."""
        taken = {
            **dict.fromkeys((*ROLES, "base"), "a word of recipes"),
            **dict.fromkeys(self.file.sources, "a source of the search"),
            **dict.fromkeys(self.stand_ins, "an earlier stage"),
        }
        if stage in taken:
            text = f"{shown(stage)} means something else already, {taken[stage]}:"
            raise ConfigError(f"{text} give this stage another name")

    def _no_stage(self, name: str, keys: StageKeys) -> str:
        if self.file.stages is None:
            return "this search has no stages. Name a source or base, or give it stages."
        text = "no earlier stage has this name"
        if name == keys.name:
            return f"{text}: it is this stage itself. Name an earlier stage, a source or base."
        if name in (stage.name for stage in self.file.stages):
            return f"{text}, but a later one has. Put that one first."
        return f"{text}.{did_you_mean(name, self.stand_ins)}"


def is_winner(name: str) -> bool:
    """Whether a name is ``stage:NAME``."""
    return name.startswith(_WINNER)


def recipe_name(name: str) -> str:
    """What a recipe calls the model: NAME for ``stage:NAME``, any other name as it is."""
    return name.removeprefix(_WINNER)


def with_recipe_names(value: Any, path: tuple[str, ...] = ()) -> Any:
    """A copy of keys and values in which every ``stage:NAME`` is NAME.

    Raises:
        ConfigError: keys that are the same model.
    """
    if isinstance(value, Mapping):
        result = {}
        for key, inner in value.items():
            name = recipe_name(key) if isinstance(key, str) else key
            if name in result:
                text = f"{name} and {_WINNER}{name} are one model."
                raise ConfigError(Problem((*path, str(name)), text, "Name it once."))
            result[name] = with_recipe_names(inner, (*path, str(name)))
        return result
    if isinstance(value, list | tuple):
        return [with_recipe_names(inner, path) for inner in value]
    return recipe_name(value) if isinstance(value, str) else value


def _winners_in(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every ``stage:NAME`` among the keys and values of a space, and the path to it."""
    if isinstance(value, str) and is_winner(value):
        yield value, path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _winners_in(key, path)
            yield from _winners_in(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _winners_in(inner, path)
