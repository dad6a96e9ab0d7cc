"""The models that a data-flow path may go through: their names, blocks and sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from evomerge.errors import Problem, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import BASE, Recipe
from evomerge.spaces import SearchContext
from evomerge.spaces._path_slots import Block
from evomerge.weights.checkpoint import Checkpoint


def _blocks(value: Any) -> Any:
    """Numbers of blocks, or ``all``."""
    numbers = value if isinstance(value, list) else [None]
    if value != "all" and not all(type(number) is int for number in numbers):
        raise ValueError(
            f"expected a list of block numbers, such as [0, 1], or all, got {shown(value)}"
        )
    return value


Blocks = Annotated[list[int] | Literal["all"], BeforeValidator(_blocks)]


class PathModels:
    """The models of a search by name; a base that is also a source has that source's name.

    Attributes:
        all: name to model.
        open: name to checkpoint; empty where they could not be opened.
    """

    def __init__(self, context: SearchContext) -> None:
        self.sources = dict(context.sources)
        same = [name for name, model in context.sources.items() if model == context.base]
        self._base = same[0] if same else BASE
        self.all = dict(context.sources) if same else {BASE: context.base, **context.sources}
        self.open: dict[str, Checkpoint] = {}
        if context.models is not None:
            self.open = {n: context.models.sources.get(n, context.models.base) for n in self.all}

    def own(self, name: str) -> str:
        """The key in `all` of the model that the YAML calls ``name``."""
        return self._base if name == BASE else name

    def layers(self, name: str) -> int | None:
        """Blocks of a model, by its name here; None where it could not be opened."""
        return self.open[name].layers if name in self.open else None

    def chosen(self, leading: str, sources: Sequence[str] | None) -> dict[str, str | Recipe]:
        """The models of the paths, the leading one first."""
        others = self.sources if sources is None else sources
        names = dict.fromkeys(self.own(name) for name in (leading, *others))
        return {name: self.all[name] for name in names}

    def problems(
        self, leading: str, sources: Sequence[str] | None, keep: Mapping[str, Blocks]
    ) -> list[Problem]:
        """Unknown models, models that are named twice, and blocks that do not exist."""
        names = sorted({BASE, *self.all})
        asked = [("leading", leading), *(("sources", name) for name in sources or ())]
        problems = [
            Problem(
                (key,),
                f"no model is called {shown(name)}.",
                did_you_mean(name, names),
                about=(name,),
            )
            for key, name in asked
            if name not in names
        ]
        depth = self.layers(self.own(leading))
        if depth is not None and depth < 2:
            text = f"{leading}: a path needs two blocks of it, it has {depth}."
            problems.append(Problem((), text, about=("leading",)))
        counts = Counter(self.own(name) for name in sources or ())
        problems += [
            Problem(("sources",), f"{name} is named twice.", "Raise repetitions instead.")
            for name, count in counts.items()
            if count > 1
        ]
        used = names if problems else self.chosen(leading, sources)
        for name, blocks in keep.items():
            problems += self._keep_problems(name, blocks, used)
        counts = Counter(self.own(name) for name in keep)
        return problems + [
            Problem(("keep",), f"{name} is named twice, once as base.", "Name it once.")
            for name, count in counts.items()
            if count > 1
        ]

    def _keep_problems(self, name: str, blocks: Blocks, used: Collection[str]) -> list[Problem]:
        """What is wrong with one entry of ``keep``: a model in no path, or blocks it lacks."""
        problems = []
        if self.own(name) not in used:
            known = self.own(name) in self.all
            cure = "Add it to sources." if known else did_you_mean(name, used)
            text = f"{shown(name)} is not among the models of the paths."
            problems.append(Problem(("keep",), text, cure, about=(name,)))
        count = self.layers(self.own(name))
        if count is None or blocks == "all":
            return problems
        outside = ", ".join(str(number) for number in blocks if number not in range(count))
        if outside:
            own = f"blocks 0 to {count - 1}" if count else "no blocks"
            text = f"it has {own}, got {outside}"
            problems.append(Problem(("keep", name), text))
        return problems

    def sizes(self, names: Iterable[str]) -> tuple[dict[Block, int], int]:
        """Weights of every block, and of the first model outside its blocks; 0 if none is open."""
        sizes: dict[Block, int] = {}
        around = 0
        for number, name in enumerate(name for name in names if name in self.open):
            for tensor, place in self.open[name].places.items():
                count = math.prod(self.open[name].tensors[tensor].shape)
                if place.layer is not None:
                    sizes[name, place.layer] = sizes.get((name, place.layer), 0) + count
                elif number == 0:
                    around += count
        return sizes, around
