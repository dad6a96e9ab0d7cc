"""Whether the blocks of a stack are those of the models that they come from.

A block may be what it is by its number: Transformers then builds another block of the same tensors
where it stands elsewhere. The stack and its models are built without weights and compared block by
block, which holds of every family. What only the code that runs the blocks tells is in
`evomerge.weights.stacks.block_code`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.weights.architecture.names import language_parts
from evomerge.weights.stacks.anatomy import Anatomy, Traits, anatomy
from evomerge.weights.stacks.block_code import by_number
from evomerge.weights.stacks.block_numbers import (
    Described,
    Origins,
    models_of,
    spelled_out,
    stack_config,
)

_CURE = "Leave the blocks where they are."


class Move(NamedTuple):
    """A block's number in a model of so many blocks, and in a stack of so many."""

    own: int
    of_layers: int
    number: int
    layers: int

    def of(self, family: str, trait: str) -> str:
        """A sentence about a trait that goes by the number."""
        return (
            f"slices: block {self.own} would be another as block {self.number} of {self.layers}: "
            f"of {family}, {trait} goes by the number of a block, and the config has no list of "
            f"it. {_CURE}"
        )


class Verdict(NamedTuple):
    """Why a stack is refused, and what a user should know of one that is not; in sentences."""

    problems: list[str]
    notes: list[str]


def stack_verdict(base: Described, origins: Origins) -> Verdict:
    """Whether a stack is made of its models' blocks.

    Args:
        base: the stack has its config, but for what belongs to blocks.
        origins: for each block its model, and its number there.
    """
    family = _family(base.config)
    try:
        own = anatomy(spelled_out(base))
        models = {key: anatomy(_as_in(base, model)) for key, model in models_of(origins).items()}
    except Exception:  # whatever makes Transformers not build the models themselves
        return Verdict([], _unknown(family, base, origins))
    in_code = _in_code(base, origins, family)
    if _alike(base, [own, *models.values()]):
        return Verdict(in_code, [])
    try:
        built = anatomy(stack_config(base, origins))
        # one block more, as this depth may be the base's
        deeper = anatomy(stack_config(base, [*origins, origins[-1]]))
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        sentence = f"slices: Transformers builds no {family} of these blocks: {what}. {_CURE}"
        return Verdict([sentence], [])
    moved = [own for _, own in origins] != list(range(base.layers))
    problems = [
        *_row_problems(own, built, family, len(origins)),
        *(_outside_problems(own, deeper, family) if moved else ()),
        *_shared_problems(own, origins, family),
        *in_code,
    ]
    found: dict[str, str] = {}
    for number, (model, block) in enumerate(origins):
        move = Move(block, model.layers, number, len(origins))
        for path, row in models[id(model.config)].rows.items():
            if len(built.rows.get(path, ())) == len(origins):
                for trait in _changed(row[block], built.rows[path][number], move):
                    found.setdefault(trait, move.of(family, trait))
    return Verdict([*problems, *found.values()], [])


def _in_code(base: Described, origins: Origins, family: str) -> list[str]:
    found: dict[str, str] = {}
    for number, (model, block) in enumerate(origins):
        before = dict(by_number(base.config, block, model.layers))
        after = dict(by_number(base.config, number, len(origins)))
        for key in before:
            if before[key] != after[key]:
                move = Move(block, model.layers, number, len(origins))
                found.setdefault(key, move.of(family, key))
    return list(found.values())


def _alike(base: Described, models: Sequence[Anatomy]) -> bool:
    """Whether all blocks of all models are the same, and would be in a deeper one.

    Then every stack is made of them, so that a search need not build each.
    """
    own = [(base, block) for block in range(base.layers)]
    try:
        deeper = anatomy(stack_config(base, [*own, own[-1]]))
    except Exception:
        return False
    first = models[0]
    return (
        first.shared is None
        and all(len(row) == base.layers + 1 for row in deeper.rows.values())
        and all(other.rows.keys() == first.rows.keys() for other in (*models, deeper))
        and all(deeper.outside.get(name) == shape for name, shape in first.outside.items())
        and not any(
            next(_changed(row[0], block, Move(0, len(row), number, len(other.rows[path]))), None)
            for other in (*models, deeper)
            for path, row in first.rows.items()
            for number, block in enumerate(other.rows[path])
        )
    )


def _unknown(family: str, base: Described, origins: Origins) -> list[str]:
    if [own for _, own in origins] == list(range(base.layers)):
        return []
    return [
        f"slices: Transformers builds no {family} here, so that nobody knows whether its blocks "
        "are the same under other numbers. Compare the outputs of the stack."
    ]


def _family(config: Mapping[str, Any]) -> str:
    part = next(iter(language_parts(config)), config)
    return str(part.get("model_type", config.get("model_type")))


def _row_problems(own: Anatomy, built: Anatomy, family: str, layers: int) -> Iterator[str]:
    for path, row in own.rows.items():
        count = len(built.rows.get(path, row))
        if count != layers:
            yield (
                f"slices: of {family}, {path} would have {count} blocks, and not {layers}, for "
                f"they are not counted by the config. {_CURE}"
            )


def _outside_problems(own: Anatomy, deeper: Anatomy, family: str) -> Iterator[str]:
    """Of tensors in no block that have a part for each."""
    for name, shape in own.outside.items():
        if deeper.outside.get(name, shape) != shape:
            yield (
                f"slices: of {family}, {name} has a part for every block, which does not move "
                f"with it. {_CURE}"
            )


def _shared_problems(own: Anatomy, origins: Origins, family: str) -> Iterator[str]:
    if own.shared is not None and len(models_of(origins)) > 1:
        yield (
            f"slices: of {family}, several blocks have {own.shared} in common. Take all blocks "
            "from one model."
        )


def _changed(own: Traits, built: Traits, move: Move) -> Iterator[str]:
    """The traits that differ, but for the number itself; of modules that differ nothing inside."""
    other: list[str] = []
    for trait in dict.fromkeys((*own, *built)):
        mine, theirs = own.get(trait), built.get(trait)
        if mine == theirs or _is_number(trait, mine, theirs, move):
            continue
        if _has_same_item(mine, theirs, move):
            continue
        if trait.startswith(tuple(f"{path}." for path in other)):
            continue
        other.append(trait)
        yield trait


def _is_number(trait: str, mine: Any, theirs: Any, move: Move) -> bool:
    """Whether a trait is no more than the number by which a block finds its cache."""
    if not type(mine) is type(theirs) is int:
        return False
    return trait.endswith("layer_idx") or (mine, theirs) == (move.own, move.number)


def _has_same_item(mine: Any, theirs: Any, move: Move) -> bool:
    """Whether a trait is the list of all blocks' settings, and the block's own is the same."""
    return (
        isinstance(mine, list | tuple)
        and isinstance(theirs, list | tuple)
        and (len(mine), len(theirs)) == (move.of_layers, move.layers)
        and mine[move.own] == theirs[move.number]
    )


def _as_in(base: Described, model: Described) -> dict[str, Any]:
    """A model's config with the settings of the base, but for what belongs to blocks."""
    mine = spelled_out(model)
    pairs = zip(_parts(mine), _parts(base.config), strict=False)
    for part, other in pairs:
        part |= {
            key: other[key]
            for key, value in part.items()
            if key in other
            and value != model.layers
            and not isinstance(value, list | Mapping)
            and not (isinstance(value, str) and len(value) == model.layers)
        }
    return mine


def _parts(config: Any) -> list[dict[str, Any]]:
    return [config, *language_parts(config)]
