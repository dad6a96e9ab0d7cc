"""How models name the rows of their embeddings: rows that a merge would mix, harmless differences.

Without `tokenizer` a merge takes row n of every model for the same token. That is right where
tokenizers differ in what has no row, in rows that only one of them names, and in special tokens
that were renamed in place, as ChatML's are; the merged model keeps the base's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

from evomerge.recipes import BASE
from evomerge.weights.checkpoint import Checkpoint

_NAMED = 3  # tokens that a sentence names one by one
# Names of rows that were made to be renamed: <|reserved_special_token_5|>, [unused5], <SPECIAL_5>.
_SPARE = re.compile(
    r"[<\[].*(reserved|unused|placeholder|dummy|extra|control|special|pad)\D*\d+\D*[>\]]", re.I
)
# A YAML's own word for the same: of recipes and searches, and of mergekit.
MATCH_ROWS = "Set tokenizer: base (in a mergekit file tokenizer_source: base)"


@dataclass(frozen=True)
class TokenNames:
    """What a model's tokenizer calls the rows of its embedding.

    Attributes:
        name: of the model.
        model: whose tokenizer it is; it has one.
    """

    name: str
    model: Checkpoint

    @cached_property
    def height(self) -> int | None:
        """Rows of the embedding; None where the model has none."""
        return table_height(self.model)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Token string to row, for the tokens that have one."""
        vocabulary = self.model.vocabulary or {}
        if self.height is None or max(vocabulary.values(), default=-1) < self.height:
            return vocabulary
        return {token: row for token, row in vocabulary.items() if row < self.height}

    def held(self, rows: Collection[int]) -> dict[int, list[str]]:
        """The tokens of some rows."""
        found: dict[int, list[str]] = {row: [] for row in rows}
        for token, row in self.rows.items() if found else ():
            if row in found:
                found[row].append(token)
        return found

    def is_special(self, token: str) -> bool:
        """Whether a token is none of the text's own, so that its row may have another name."""
        return token in self.model.special_tokens or is_spare(token)


def is_spare(token: str) -> bool:
    """Whether a token is one that no text uses, kept for others to rename."""
    return _SPARE.fullmatch(token) is not None


def table_height(model: Checkpoint) -> int | None:
    """Rows of a model's embedding; None where it has none."""
    return None if model.embedding is None else model.tensors[model.embedding].shape[0]


def _mixed(names: TokenNames, before: Sequence[TokenNames]) -> Iterator[str]:
    """A phrase for each token of a model whose row holds another one in a model before it.

    Two sources that agree with the base may still differ in rows that it does not name.
    """
    differing = sorted(names.rows.items() - before[0].rows.items(), key=itemgetter(1))
    held = [other.held({row for _, row in differing}) for other in before]
    for token, row in differing:
        owner = next((other for other in before if token in other.rows), None)
        if owner is not None:
            if owner.rows[token] != row and not is_spare(token):
                yield (
                    f"{token!r} is row {row} in {names.name}, {owner.rows[token]} in {owner.name}"
                )
            continue
        if is_spare(token):
            continue
        others = [(o, other) for o, rows in zip(before, held, strict=True) for other in rows[row]]
        if any(names.rows.get(other) == row for _, other in others):
            continue  # another name of the same token
        for owner, other in others:
            # sources may rename what the base keeps for that, all in the same way
            special = names.is_special(token) or owner.is_special(other)
            free = special if owner.name == BASE else is_spare(other)
            # one that has moved is named already
            if other not in names.rows and not free:
                yield f"row {row} is {token!r} in {names.name}, {other!r} in {owner.name}"
                break


def mixed_rows(base: Checkpoint, sources: Mapping[str, Checkpoint]) -> list[str]:
    """A sentence for each source with rows that stand for other tokens than the others'."""
    if base.vocabulary is None:
        return []
    before = [TokenNames(BASE, base)]
    seen: list[object] = [(base.vocabulary, table_height(base))]
    problems = []
    for name, source in sources.items():
        own = (source.vocabulary, table_height(source))
        if own[0] is None or own in seen:
            continue
        seen.append(own)
        names = TokenNames(name, source)
        if found := list(_mixed(names, before)):
            count = "1 token stands" if len(found) == 1 else f"{len(found)} tokens stand"
            # by the embedding it is known which tensors have a row for each token
            cure = "Drop" if base.embedding is None else f"{MATCH_ROWS}, or drop"
            problems.append(
                f"{name}: its tokenizer numbers tokens differently: {count} in other rows, which "
                f"would be mixed: {_some(found)}. {cure} this source."
            )
        before.append(names)
    return problems


def difference_note(name: str, base: Checkpoint, source: Checkpoint) -> str | None:
    """What differs between a source's tokenizer and the base's where no rows are mixed.

    Args:
        base, source: have a tokenizer both.
    """
    ours, theirs = TokenNames(BASE, base), TokenNames(name, source)
    facts = list(_facts(ours, theirs))
    if not facts:
        return None
    return f"{name}: {'; '.join(facts)}. The merged model keeps the base's tokenizer."


def _facts(ours: TokenNames, theirs: TokenNames) -> Iterator[str]:
    """Phrases about a source's rows and tokens."""
    height, other = ours.height, theirs.height
    last = height if height is not None else max(ours.rows.values(), default=-1) + 1
    new = sorted((theirs.rows[t], t) for t in theirs.rows.keys() - ours.rows.keys())
    named = ours.held({row for row, _ in new})
    renamed = [f"row {r} is {t!r}, the base's {named[r][-1]!r}" for r, t in new if named[r]]
    if renamed:
        yield f"{_count(len(renamed), 'token')} renamed in place: {_some(renamed)}"
    kept = [f"{t!r} at row {r}" for r, t in new if not named[r] and r < last]
    if kept:
        yield f"{_count(len(kept), 'row')} that the base has without a token: {_some(kept)}"
    if height is not None and other is not None and other > height:
        lost = [f"{t!r} at row {r}" for r, t in new if r >= height]
        yield f"{_count(other - height, 'row')} beyond the base's {height} left out" + (
            f": {_some(lost)}; tokenizer: union of a recipe (tokenizer_source: union of a mergekit "
            "file) would keep them"
            if lost
            else ""
        )
    if height is not None and other is not None and other < height:
        yield f"{_count(height - other, 'row')} of the base's {height} not there: the base's stay"
    every = theirs.model.vocabulary or {}
    idle = [t for t in every.keys() - theirs.rows.keys() if t not in ours.rows]
    without = [repr(token) for token in sorted(idle, key=every.__getitem__)]
    if without:
        yield f"{_count(len(without), 'token')} without a row in its embedding: {_some(without)}"
    gone = sorted((ours.rows[t], t) for t in ours.rows.keys() - theirs.rows.keys())
    taken = theirs.held({row for row, _ in gone})
    unknown = [
        f"{t!r} at row {r}" for r, t in gone if not taken[r] and (other is None or r < other)
    ]
    if unknown:
        yield f"{_count(len(unknown), 'token')} of the base not named: {_some(unknown)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _some(phrases: Sequence[str]) -> str:
    """The first few phrases, and how many more there are."""
    more = f"; and {len(phrases) - _NAMED} more" if len(phrases) > _NAMED else ""
    return "; ".join(phrases[:_NAMED]) + more
