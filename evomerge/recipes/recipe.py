"""A recipe: one merged model, completely, in a few kilobytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from evomerge.registry import did_you_mean

ROLES = ("attention", "mlp", "norm", "embedding", "head", "other")
DTYPES = ("float32", "bfloat16", "float16")

Scalar = float | bool | str


class Recipe(BaseModel):
    """Which models are merged, by which operator, at which settings.

    A setting in ``parameters`` is a scalar, a list with one value per layer, or a mapping from
    roles (`ROLES`, where ``other`` stands for every role not named) to either. A mapping from
    source names to such settings gives each source its own. Tensors outside the blocks
    (embeddings, head, final norm) take the first value of a list, as in mergekit.

    Attributes:
        base: the model that task vectors are measured from; gives config and tokenizer.
        sources: name to model: a folder, or ``org/name[@revision]``; at least one.
        operator: a name from ``evomerge list operators``.
        seed: of the operator's random numbers.
        dtype: of the written weights; all arithmetic is float32.
        tokenizer: ``base`` aligns differing vocabularies to the base's through token strings;
            None demands that they are equal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    sources: dict[str, str] = Field(min_length=1)
    operator: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    dtype: Literal["float32", "bfloat16", "float16"]
    tokenizer: Literal["base"] | None = None

    @field_validator("sources")
    @classmethod
    def _names_are_plain(cls, sources: dict[str, str]) -> dict[str, str]:
        for name in sources:
            if name in ROLES:
                raise ValueError(f"a source may not be called {name!r}: that is a role")
        return sources

    @model_validator(mode="after")
    def _canonical(self) -> Recipe:
        settings = {
            name: _canonical_setting(setting, name, self.sources)
            for name, setting in sorted(self.parameters.items())
        }
        object.__setattr__(self, "parameters", settings)
        return self

    def setting(self, name: str, source: str | None, role: str, layer: int) -> Scalar | None:
        """The value of one parameter for one tensor, or None when the recipe does not give it.

        Args:
            name: of the parameter.
            source: which source's value, or None for a parameter that all sources share.
            role: one of `ROLES`.
            layer: index of the block, 0 for tensors outside the blocks.

        Raises:
            IndexError: the list of values is shorter than the model.
        """
        value = self.parameters.get(name)
        if source is not None and isinstance(value, Mapping) and source in value:
            value = value[source]
        if isinstance(value, Mapping):
            value = value.get(role, value.get("other"))
        if isinstance(value, list):
            value = value[layer]
        return value if value is None or isinstance(value, (float, bool, str)) else None

    def lists(self) -> list[tuple[str, int]]:
        """Every per-layer list: where it stands, and how many values it has."""
        return [item for name, setting in self.parameters.items() for item in _lists(name, setting)]

    def canonical_json(self) -> str:
        """One text per recipe: sorted keys, no spaces, sources in order."""
        content = self.model_dump()
        content["sources"] = [list(pair) for pair in self.sources.items()]
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def digest(self) -> str:
        """sha256 of `canonical_json`, in hex: the recipe's identity."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    @classmethod
    def from_canonical_json(cls, text: str) -> Recipe:
        """Inverse of `canonical_json`."""
        content = json.loads(text)
        content["sources"] = dict(content["sources"])
        return cls.model_validate(content)


def _canonical_setting(setting: Any, path: str, sources: Mapping[str, str]) -> Any:
    """The same setting in the one form that is hashed: numbers as floats, repeats collapsed."""
    if isinstance(setting, Mapping) and any(key in sources for key in setting):
        _refuse_unknown(setting, path, sources, "source")
        per_source = {
            name: _canonical_table(setting[name], f"{path}.{name}")
            for name in sources
            if name in setting
        }
        values = list(per_source.values())
        same = len(values) == len(sources) and all(v == values[0] for v in values)
        return values[0] if same else per_source
    return _canonical_table(setting, path, sources)


def _canonical_table(setting: Any, path: str, sources: Mapping[str, str] | None = None) -> Any:
    """A setting that no longer differs by source."""
    if not isinstance(setting, Mapping):
        return _canonical_row(setting, path)
    _refuse_unknown(setting, path, [*ROLES, *(sources or ())], "role")
    rows = {role: _canonical_row(setting[role], f"{path}.{role}") for role in setting}
    if not rows:
        raise ValueError(f"{path}: empty")
    if "other" not in rows:
        missing = [role for role in ROLES if role not in rows and role != "other"]
        if missing:
            raise ValueError(f"{path}: no value for {', '.join(missing)}. Add the key 'other'")
        return rows
    rows = {role: rows[role] for role in ROLES if role in rows and rows[role] != rows["other"]} | {
        "other": rows["other"]
    }
    return rows["other"] if len(rows) == 1 else rows


def _canonical_row(setting: Any, path: str) -> Any:
    """A scalar, or a list of them; a list of equal values becomes the value."""
    if isinstance(setting, (list, tuple)):
        row = [_canonical_scalar(value, path) for value in setting]
        if not row:
            raise ValueError(f"{path}: an empty list")
        return row[0] if all(value == row[0] for value in row) else row
    return _canonical_scalar(setting, path)


def _canonical_scalar(value: Any, path: str) -> Scalar:
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value) + 0.0  # -0.0 and 0.0 are the same recipe
    raise ValueError(f"{path}: expected a finite number, a word or true/false, got {value!r}")


def _refuse_unknown(setting: Mapping[str, Any], path: str, known: Any, kind: str) -> None:
    for key in setting:
        if key not in known:
            raise ValueError(f"{path}.{key}: no such {kind}.{did_you_mean(str(key), known)}")


def _lists(path: str, setting: Any) -> list[tuple[str, int]]:
    if isinstance(setting, list):
        return [(path, len(setting))]
    if isinstance(setting, Mapping):
        return [item for key in setting for item in _lists(f"{path}.{key}", setting[key])]
    return []
