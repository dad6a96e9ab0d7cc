"""The merged model's tokens, and the rows of each model that belong to them (rule R9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from evomerge.errors import PlanError
from evomerge.recipes import BASE, Tokenizer, TokenRow
from evomerge.weights.architecture.token_tables import token_counts
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.lazy_rows import AlignedColumns, AlignedRows
from evomerge.weights.tokens.tokenizers import AddedToken, added_tokens, next_id

UNION = "union"


class Vocabulary:
    """The merged model's tokens, and the rows of each model that belong to them.

    Args:
        setting: the recipe's ``tokenizer``.

    Attributes:
        owner: the model whose tokenizer the merged one has; the base for a union.
        tokens: token string to row.
        added: tokens that the owner's tokenizer lacks, with their rows, which follow one another.
        own_rows, base_rows: of the owner's embedding, of the base's.
        rows: of the merged embedding, without padding.
        padded_rows: with padding.

    Raises:
        PlanError: tokens that are not there, all at once; a model without a tokenizer.
    """

    by_token = True  # rather than by their number

    def __init__(
        self, base: Checkpoint, sources: Mapping[str, Checkpoint], setting: Tokenizer
    ) -> None:
        self.base = base
        named = {BASE: base, **sources}
        # each once, however many names it has: a mean must not count it twice
        self.models = tuple({id(model): model for model in (base, *sources.values())}.values())
        self.owner = base if setting.source == UNION else named[setting.source]
        own = self.owner.vocabulary
        if own is None:
            raise PlanError(
                f"tokenizer: {setting.source}: the model whose tokenizer is wanted has no "
                "tokenizer.json. Save one with it."
            )
        self._donors = self.models if setting.source == UNION else ()
        self.added = _new_tokens(self.owner, self._donors, setting.tokens)
        self.tokens = own | self.added
        self.own_rows, self.base_rows = _height(self.owner), _height(base)
        self.rows = max(self.own_rows, 1 + max(self.added.values(), default=-1))
        step = setting.pad_to_multiple_of or 1
        self.padded_rows = -(-self.rows // step) * step
        self._overrides = dict(self._read_rules(setting.tokens, named))
        self._forced = [self.tokens[t] for t, rule in setting.tokens.items() if rule.force]
        self._rows: dict[int, Tensor] = {}

    def rows_of(self, model: Checkpoint) -> Tensor:
        """For each row of the merged model the model's own, -1 where it has none.

        Returns:
            (padded_rows,) int64.
        """
        if id(model) not in self._rows:
            self._rows[id(model)] = self._map(model)
        return self._rows[id(model)]

    def fits(self, model: Checkpoint) -> bool:
        """Whether it is known which tokens the model's rows stand for."""
        return model.vocabulary is not None or _height(model) == self.own_rows

    def is_own(self, model: Checkpoint) -> bool:
        """Whether the merged rows are the model's own, all of them and in order."""
        return _height(model) == self.padded_rows and bool(
            (self.rows_of(model) == torch.arange(self.padded_rows)).all()
        )

    def problems(self) -> Iterator[str]:
        """A sentence for each model of which it is not known what all its rows are."""
        for model in self.models:
            height, moved = _height(model), not self.is_own(model)
            counts = dict(token_counts(model.config))
            if moved and counts and height not in counts.values():
                named = ", ".join(f"{key} {count}" for key, count in counts.items())
                yield (
                    f"tokenizer: {model.embedding} of {model.folder} has {height} rows, but its "
                    f"config counts {named}, so that nobody knows what the others are. Leave the "
                    "key tokenizer out, or drop this model."
                )
            for key, count in counts.items():
                kept = self.rows_of(model)[:count]
                stays = bool((kept == torch.arange(len(kept))).all())
                if key.startswith("vocab_size_") and count != height and not stays:
                    yield (
                        f"tokenizer: of {model.config.get('model_type')}, {key} counts "
                        f"{count} tokens and the embedding {height}, and tokens have other "
                        f"rows in {model.folder}. Leave the key tokenizer out, or drop it."
                    )

    def added_tokens(self) -> list[AddedToken]:
        """The added tokens as items of a tokenizer.json; flags are those of the first model."""
        known: dict[str, AddedToken] = {}
        for model in self._donors:
            known = added_tokens(model) | known
        return [
            AddedToken({**known.get(token, _plain(token)), "id": row})
            for token, row in self.added.items()
        ]

    def _map(self, model: Checkpoint) -> Tensor:
        mapped = torch.full((self.padded_rows,), -1, dtype=torch.int64)
        height = _height(model)
        own = self.owner.vocabulary
        theirs = own if model.vocabulary is None else model.vocabulary
        assert own is not None and theirs is not None
        tokens = self.tokens
        if model is self.owner or (theirs == own and height == self.own_rows):
            mapped[:height] = torch.arange(height)  # padding too
            tokens = self.added
        pairs = [(row, theirs.get(token, -1)) for token, row in tokens.items() if row < self.rows]
        if pairs:
            here, there = torch.tensor(pairs).T
            mapped[here] = torch.where(there < height, there, -1)
        mapped[self._forced] = -1
        return mapped

    def _read_rules(
        self, rules: Mapping[str, TokenRow], named: Mapping[str, Checkpoint]
    ) -> Iterator[tuple[int, tuple[Checkpoint, int] | None]]:
        """Row to the model, and its row, that fills it; None for zeros."""
        problems: list[str] = []
        for token, rule in rules.items():
            if rule.source is None:
                yield self.tokens[token], None
                continue
            try:
                yield self.tokens[token], _origin(token, rule, named)
            except PlanError as error:
                problems += [f"tokenizer.tokens.{token}: {text}" for text in error.problems]
        if problems:
            raise PlanError(problems)

    def defaults(self, models: Sequence[Checkpoint]) -> Tensor:
        """For each of the models and each row, the model's row that fills it where one lacks it.

        The mean of these rows is taken: what the recipe's rule for the token names, else the
        base's row, else the rows of all models that know the token. Padding is the owner's.

        Args:
            models: those that have the table, each once.

        Returns:
            (len(models), padded_rows) int64, -1 where a model adds nothing to a row.
        """
        maps = torch.stack([self.rows_of(model) for model in models])
        for first in (self.base, self.owner):
            if first in models:
                known = maps[models.index(first)] >= 0
                if first is self.owner and first is not self.base:
                    known = known & self._tokenless
                others = [number for number, model in enumerate(models) if model is not first]
                maps[others] = torch.where(known, -1, maps[others])
        for row, origin in self._overrides.items():
            maps[:, row] = -1
            if origin is not None and origin[0] in models:
                maps[models.index(origin[0]), row] = origin[1]
        return maps

    @cached_property
    def _tokenless(self) -> Tensor:
        """(padded_rows,) whether a row is padding."""
        free = torch.ones(self.padded_rows, dtype=torch.bool)
        free[[row for row in self.tokens.values() if row < self.padded_rows]] = False
        return free

    def align(
        self,
        model: Checkpoint,
        table: Tensor,
        axis: int,
        tables: Callable[[], Sequence[tuple[Checkpoint, Tensor]]],
    ) -> Tensor | AlignedRows | AlignedColumns:
        """A model's embedding, head or bias in the merged model's row order.

        Args:
            table: (rows, ...) of the model, or (n, rows) where the axis of tokens is 1.
            axis: that of tokens.
            tables: gives the tables of all models; called only if this model lacks rows.
        """
        if self.is_own(model):
            return table
        own = self.rows_of(model)
        others = tables() if bool((own[: self.rows] < 0).any()) else ()
        fill = self.defaults([owner for owner, _ in others]) if others else ()
        donors = tuple(
            (theirs.transpose(0, axis), rows)
            for (_, theirs), rows in zip(others, fill, strict=True)
        )
        aligned = AlignedRows(table.transpose(0, axis), own, donors, self.rows)
        return AlignedColumns(aligned) if axis else aligned


class SharedRows(Vocabulary):
    """The base's tokens, where embeddings of other heights share their first rows.

    Row n is the same token in all models; rows that a model lacks are the base's.
    """

    by_token = False

    def _map(self, model: Checkpoint) -> Tensor:
        mapped = torch.full((self.padded_rows,), -1, dtype=torch.int64)
        shared = min(_height(model), self.padded_rows)
        mapped[:shared] = torch.arange(shared)
        return mapped


def merged_vocabulary(
    base: Checkpoint, sources: Mapping[str, Checkpoint], setting: str | Tokenizer | None
) -> Vocabulary | None:
    """The merged vocabulary; None where shapes decide whether the models fit together.

    Args:
        setting: the recipe's ``tokenizer``; None where rows are matched by their number.

    Raises:
        PlanError: as `Vocabulary`.
    """
    if setting is None:
        heights = {_height(model) for model in (base, *sources.values())}
        if len(heights) == 1 or base.vocabulary is None or base.embedding is None:
            return None
        return SharedRows(base, sources, Tokenizer(source=BASE))
    whole = Tokenizer(source=setting) if isinstance(setting, str) else setting
    if whole == Tokenizer(source=BASE) and (base.vocabulary is None or base.embedding is None):
        return None
    if base.embedding is None:
        raise PlanError(
            f"tokenizer: {base.folder} has no embedding whose rows could be matched by token. "
            "Leave the key tokenizer out."
        )
    return Vocabulary(base, sources, whole)


def _height(model: Checkpoint) -> int:
    return model.tensors[model.embedding].shape[0] if model.embedding is not None else 0


def _new_tokens(
    owner: Checkpoint, donors: Sequence[Checkpoint], rules: Mapping[str, TokenRow]
) -> dict[str, int]:
    """Tokens to add behind the owner's, in the order of the models and of their rows."""
    own = owner.vocabulary or {}
    added: dict[str, None] = {}
    for model in donors:
        theirs, height = model.vocabulary or {}, _height(model)
        # a tokenizer may name tokens for which the embedding has no row
        new = [t for t, row in theirs.items() if row < height and t not in own and t not in added]
        added |= dict.fromkeys(sorted(new, key=theirs.__getitem__))
    added |= dict.fromkeys(token for token in rules if token not in own)
    first = next_id(owner) if added else 0
    return {token: first + number for number, token in enumerate(added)}


def _plain(token: str) -> AddedToken:
    return AddedToken(
        id=0,
        content=token,
        single_word=False,
        lstrip=False,
        rstrip=False,
        normalized=False,
        special=False,
    )


def _origin(token: str, rule: TokenRow, named: Mapping[str, Checkpoint]) -> tuple[Checkpoint, int]:
    assert rule.source is not None
    model = named[rule.source]
    height = _height(model)
    if rule.token_id is not None:
        if rule.token_id >= height:
            raise PlanError(
                f"token_id {rule.token_id} is beyond the {height} rows of {rule.source}. "
                "Name a row that it has."
            )
        return model, rule.token_id
    wanted = rule.token or token
    row = (model.vocabulary or {}).get(wanted, -1)
    if not 0 <= row < height:
        raise PlanError(f"{rule.source} has no token {wanted!r}. Name one that it has.")
    return model, row
