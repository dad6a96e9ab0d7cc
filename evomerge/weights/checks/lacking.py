"""Tensors that some of the models lack: which are a mistake, and which only leave a model out.

Nothing is known here of families: whether a model needs a tensor is asked of Transformers, which
loads the names and shapes with and without it. Buffers, tied copies and what a checkpoint has
without use are needed by none; a backbone has no use for the head of another task, and a text
model none for a tower that sees.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence, Set
from typing import NamedTuple
from weakref import WeakKeyDictionary

from evomerge.errors import listed
from evomerge.recipes import BASE
from evomerge.recipes.places import numbered, pattern
from evomerge.weights.architecture.conformity import RefusedError, Report, Shape, report
from evomerge.weights.architecture.names import is_tower, within_block
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.weight_files import is_allowed
from evomerge.weights.slots import Slot

_Asked = tuple[frozenset[str], tuple[tuple[str, Shape], ...]]
# Kept, for a search opens its models in one stack after the other.
_BLOCKS: MutableMapping[Checkpoint, dict[int, dict[str, str]]] = WeakKeyDictionary()
_REPORTS: MutableMapping[Checkpoint, dict[_Asked, Report | None]] = WeakKeyDictionary()


class Lacks(NamedTuple):
    """What models lack of each other.

    Attributes:
        problems: a sentence for each model that lacks tensors it should have.
        notes: a sentence for each model that takes no part in some tensors.
    """

    problems: list[str]
    notes: list[str]


def lacks(
    base: Checkpoint,
    sources: Mapping[str, Checkpoint],
    slots: Sequence[Slot],
    *,
    stacked: Mapping[str, Set[int]],
    allowed: Sequence[str],
) -> Lacks:
    """What models lack of the tensors that others give to the merged model.

    Args:
        slots: tensors of the merged model, after other layouts are mapped to the base's.
        stacked: where each block is of one model, and so complete whatever others have: the blocks
            that each gives. Empty where blocks are merged.
        allowed: patterns of tensors that may be missing.
    """
    found = Lacks([], [])
    models = {BASE: base, **sources}
    merged = [s for s in slots if s.merged and not (stacked and s.place.layer is not None)]
    for name, model in ((BASE, base), *sources.items()):
        own = [s for s in merged if (s.base is None if model is base else name in s.lacking)]
        if not own:
            continue
        of_owner: dict[str, list[Slot]] = defaultdict(list)
        for slot in own:
            of_owner[BASE if slot.base is not None else next(iter(slot.inputs))].append(slot)
        for owner, theirs in of_owner.items():
            wrong = _wrong(model, models[owner], theirs)
            wrong = [slot for slot in wrong if not is_allowed(slot.name, allowed)]
            rest = [slot.name for slot in theirs if slot not in wrong]
            if wrong:
                found.problems.append(_problem(name, owner, wrong, model, merged))
            if rest:
                found.notes.append(_note(name, owner, rest))
    for name, blocks in stacked.items():
        gaps = [
            n for n in _gaps(models[name], blocks, models.values()) if not is_allowed(n, allowed)
        ]
        if gaps:
            found.problems.append(_refusal(name, "the blocks of its kind have", gaps))
    return found


def _gaps(model: Checkpoint, blocks: Set[int], others: Iterable[Checkpoint]) -> list[str]:
    """What blocks of a model lack to be whole; by the names in memory, where those are known."""
    own = _by_block(model)
    richer = [
        (own[number].keys(), theirs[number])
        for theirs in map(_by_block, others)
        for number in sorted(blocks & own.keys() & theirs.keys())
        if theirs[number].keys() - own[number].keys()
    ]
    if not richer:  # as most often, and nobody need be asked
        return []
    if (found := _report(model)) is not None:
        named = [(name, numbered(name)) for name in sorted(found.not_whole)]
        return [name for name, block in named if block and block.number in blocks]
    # a block of another kind has tensors of its own, too
    partial = [(ours, theirs) for ours, theirs in richer if ours < theirs.keys()]
    return sorted({t[within] for ours, t in partial for within in t.keys() - ours})


def _by_block(model: Checkpoint) -> dict[int, dict[str, str]]:
    """By block, the names within it and in full."""
    if model not in _BLOCKS:
        found: dict[int, dict[str, str]] = defaultdict(dict)
        for name, place in model.places.items():
            if place.layer is not None:
                found[place.layer][within_block(name)] = name
        _BLOCKS[model] = dict(found)
    return _BLOCKS[model]


def _wrong(model: Checkpoint, owner: Checkpoint, slots: Sequence[Slot]) -> list[Slot]:
    """Those of an owner's tensors that another model should have, too."""
    names = {_name_in(owner, slot): slot for slot in slots}
    needed = _needed(owner, names)
    if needed is None:
        return [s for s in slots if model.bare or _is_needed(s)]
    inner = [names[n] for n in needed if names[n].place.layer is not None]
    outer = {n: names[n] for n in needed if names[n].place.layer is None}
    fitting = _fitting(model, outer, owner) if outer else ()
    if fitting is None:
        fitting = [name for name, slot in outer.items() if _is_needed(slot)]
    return [*inner, *(outer[name] for name in fitting)]


def _name_in(owner: Checkpoint, slot: Slot) -> str:
    """The owner's name of a tensor."""
    if slot.base in owner.tensors:
        return str(slot.base)
    return next((n for n in slot.inputs.values() if n in owner.tensors), slot.name)


def _is_needed(slot: Slot) -> bool:
    """Whether every model of a kind has the tensor, as far as its name and place tell."""
    common = slot.place.role != "head" and not is_tower(slot.name)
    return slot.floating and (slot.place.layer is not None or common)


def _needed(owner: Checkpoint, names: Iterable[str]) -> list[str] | None:
    """Those of a model's own tensors without which it would not be whole; None if nobody knows."""
    names = list(names)
    whole, without = _report(owner), _report(owner, left_out=frozenset(names))
    if whole is None or without is None:
        return None
    return _matching(names, without.not_whole - whole.not_whole)


def _fitting(
    model: Checkpoint, slots: Mapping[str, Slot], owner: Checkpoint
) -> Sequence[str] | None:
    """Those of another model's tensors that would fill a gap in a model; None if nobody knows."""
    extra = tuple((name, owner.tensors[name].shape) for name in slots if name in owner.tensors)
    now, then = _report(model), _report(model, extra=extra)
    if now is None or then is None:
        return None
    return _matching([n for n in slots if n not in then.unexpected], now.not_whole - then.not_whole)


def _report(
    model: Checkpoint,
    *,
    left_out: frozenset[str] = frozenset(),
    extra: tuple[tuple[str, Shape], ...] = (),
) -> Report | None:
    """What Transformers says of a model's tensors, without some and with others."""
    known = _REPORTS.setdefault(model, {})
    if (left_out, extra) not in known:
        own = {n: info.shape for n, info in model.tensors.items() if n not in left_out}
        try:
            known[left_out, extra] = report(model.config, own | dict(extra))
        except RefusedError:
            known[left_out, extra] = None
    return known[left_out, extra]


def _matching(names: Sequence[str], in_memory: Set[str]) -> list[str]:
    """The names in files of tensors in memory; all where one of those is under another name."""
    if not in_memory:
        return []
    found = {n: {m for m in in_memory if _same_tensor(n, m)} for n in names}
    matched = {memory for ones in found.values() for memory in ones}
    return [n for n in names if found[n]] if matched == in_memory else list(names)


def _same_tensor(one: str, other: str) -> bool:
    """Whether names differ by a prefix at most."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def _problem(
    name: str, owner: str, wrong: Sequence[Slot], model: Checkpoint, slots: Sequence[Slot]
) -> str:
    names = [slot.name for slot in wrong]
    own = [s.inputs.get(name) if name != BASE else s.base for s in slots]
    alone = [n for n in model.tensors if n in set(filter(None, own)) and _owners(n, slots) == 1]
    near = [(n, m) for n in names for m in difflib.get_close_matches(n, alone, n=1, cutoff=0.9)]
    instead = f" It has {near[0][1]}: a misspelt {near[0][0]}?" if near else ""
    return _refusal(name, f"{owner} has", names, instead)


def _refusal(name: str, whose: str, names: Sequence[str], instead: str = "") -> str:
    patterns = list(dict.fromkeys(map(pattern, names)))
    return (
        f"{name}: lacks {_count(names)} that {whose}: {listed(names)}.{instead} Copy the model "
        f"again, or set allow_missing: {patterns} to merge without."
    )


def _owners(name: str, slots: Sequence[Slot]) -> int:
    """How many models have a tensor of the merged model."""
    return next((len(s.inputs) + (s.base is not None) for s in slots if s.name == name), 0)


def _note(name: str, owner: str, names: Sequence[str]) -> str:
    if name == BASE:
        return (
            f"base: lacks {_count(names)} that {owner} has: {listed(names)}; the merged model "
            "has the average of the sources that have them."
        )
    return f"{name}: lacks {_count(names)} that {owner} has: {listed(names)}; it takes no part."


def _count(names: Sequence[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
