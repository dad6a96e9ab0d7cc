"""The tokenizer of a recipe, from mergekit's keys and as mergekit's keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from evomerge.errors import shown
from evomerge.recipes import Tokenizer, TokenRow
from evomerge.recipes._tokenizer import VOCABULARIES
from evomerge.recipes.mergekit.read_models import Model, ModelReader, title_of
from evomerge.recipes.mergekit.read_settings import Problems


def read_tokenizer(
    content: dict[str, Any], models: ModelReader, names: Sequence[tuple[Model, str]]
) -> Any:
    """The field ``tokenizer`` of a recipe, from ``tokenizer_source`` or ``tokenizer``.

    Args:
        names: the base and the sources, each with its name in the recipe.
    """
    problems = models.problems

    def source(value: Any, path: str) -> str:
        if value in VOCABULARIES:
            return str(value)
        model = models.model(value, path)
        name = next((name for other, name in names if _plain(other) == _plain(model)), None)
        if name is None and model:
            problems.add(path, f"expected base, union or one of the models, got {title_of(model)}")
        return name or "base"

    if content.get("tokenizer") is None:
        word = content.get("tokenizer_source")
        return None if word is None else source(word, "tokenizer_source")
    if content.get("tokenizer_source") is not None:
        problems.add("tokenizer", "give either tokenizer or tokenizer_source")
    known = ("source", "tokens", "pad_to_multiple_of")
    keys = problems.check_keys(content["tokenizer"], "tokenizer", known)
    tokens = keys.get("tokens") or {}
    if not isinstance(tokens, dict):
        problems.add("tokenizer.tokens", f"expected tokens and their sources, got {shown(tokens)}")
        tokens = {}
    return {
        "source": source(keys.get("source", "union"), "tokenizer.source"),
        "tokens": {
            str(token): _row(value, f"tokenizer.tokens.{token}", problems, source)
            for token, value in tokens.items()
        },
        "pad_to_multiple_of": keys.get("pad_to_multiple_of") or None,
    }


def _plain(model: Model) -> Model:
    """A folder without what does not change it, such as a slash at the end."""
    return str(PurePath(model)) if isinstance(model, str) and model else model


def _row(value: Any, path: str, problems: Problems, source_of: Callable[[Any, str], str]) -> Any:
    keys = problems.check_keys(value, path, ("source", "force"))
    row: dict[str, Any] = {"force": keys.get("force", False)}
    source = keys.get("source")
    if source is None:
        problems.add(f"{path}.source", "expected a model, or a kind of row")
    elif not isinstance(source, dict) or "kind" not in source:
        row["source"] = source_of(source, f"{path}.source")
    elif source["kind"] == "zero":
        row["zero"] = True
    elif source["kind"] == "model_token":
        known = ("kind", "model", "token", "token_id")
        problems.check_keys(source, f"{path}.source", known)
        row["source"] = source_of(source.get("model"), f"{path}.source.model")
        row |= {key: source[key] for key in ("token", "token_id") if source.get(key) is not None}
        if ("token" in row) == ("token_id" in row):
            problems.add(f"{path}.source", "expected either token or token_id")
    else:
        kind = source["kind"]
        problems.add(f"{path}.source.kind", f"expected zero or model_token, got {shown(kind)}")
    return row


def write_tokenizer(
    tokenizer: str | Tokenizer | None, models: Mapping[str, str], has_base: bool
) -> dict[str, Any]:
    """The keys of a mergekit YAML that give a recipe's tokenizer.

    Args:
        models: names of the sources, and ``base``, to the models.
        has_base: whether the YAML has a ``base_model``, which ``base`` then means.
    """
    if tokenizer is None:
        return {}
    words = VOCABULARIES if has_base else ("union",)
    if isinstance(tokenizer, str):
        return {"tokenizer_source": tokenizer if tokenizer in words else models[tokenizer]}
    word = tokenizer.source if tokenizer.source in words else models[tokenizer.source]
    written: dict[str, Any] = {"source": word}
    if tokenizer.tokens:
        written["tokens"] = {t: _written(row, models) for t, row in tokenizer.tokens.items()}
    if tokenizer.pad_to_multiple_of:
        written["pad_to_multiple_of"] = tokenizer.pad_to_multiple_of
    return {"tokenizer": written}


def _written(row: TokenRow, models: Mapping[str, str]) -> dict[str, Any]:
    source: Any = {"kind": "zero"}
    if row.source is not None:
        source = models[row.source]
        if row.token is not None:
            source = {"kind": "model_token", "model": source, "token": row.token}
        elif row.token_id is not None:
            source = {"kind": "model_token", "model": source, "token_id": row.token_id}
    return {"source": source, **({"force": True} if row.force else {})}
