"""Settings of parameters: their canonical form, and the value for one tensor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from evomerge.errors import WrongValuesError, shown
from evomerge.keys import is_computable
from evomerge.plugins.registry import did_you_mean

ROLES = ("attention", "mlp", "norm", "embedding", "head", "other")

Scalar = float | bool | str


def canonical_settings(
    parameters: Mapping[str, Any], sources: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """Parameter to canonical setting, and what is wrong with the settings that have none."""
    settings: dict[str, Any] = {}
    problems: list[str] = []
    for name, setting in sorted(parameters.items()):
        try:
            settings[name] = canonical(setting, name, sources)
        except ValueError as error:
            problems += error.args
    return settings, problems


def canonical(setting: Any, path: str, sources: Collection[str]) -> Any:
    """The setting in the one form that is hashed: numbers as floats, repeats collapsed.

    Args:
        path: where it stands, for messages.

    Raises:
        ValueError: one sentence for each mistake in ``args``.
    """
    if isinstance(setting, Mapping) and any(key in sources for key in setting):
        _refuse_unknown(setting, path, sources, "source")
        own = {name: setting[name] for name in sources if name in setting}
        by_source = _each(_by_role, own, path)
        values = list(by_source.values())
        same = len(values) == len(sources) and all(v == values[0] for v in values)
        return values[0] if same else by_source
    return _by_role(setting, path, sources)


def find(setting: Any, source: str | None, role: str, layer: int, tensor: str) -> Scalar | None:
    """The value of a canonical setting for one tensor, or None where it gives none.

    Raises:
        IndexError: the list of values is shorter than the model.
    """
    if source is not None and isinstance(setting, Mapping) and source in setting:
        setting = setting[source]
    if isinstance(setting, Mapping):
        setting = setting.get(role, setting.get("other"))
    if is_filters(setting):
        # mergekit's rule: the first line that fits
        fits = (line for line in setting if line.get("filter", "") in tensor)
        setting = next((line["value"] for line in fits), None)
    if isinstance(setting, list):
        setting = setting[layer]
    return setting if isinstance(setting, (float, bool, str)) else None


def rows(path: str, setting: Any) -> list[tuple[str, int]]:
    """The path of every list of values by block, and how many values it has."""
    if is_filters(setting):
        return [
            item
            for number, line in enumerate(setting)
            for item in rows(f"{path}.{number}", line["value"])
        ]
    if isinstance(setting, list):
        return [(path, len(setting))]
    if isinstance(setting, Mapping):
        return [item for key in setting for item in rows(f"{path}.{key}", setting[key])]
    return []


def is_filters(setting: Any) -> bool:
    """Whether a setting is a list of filters with values, rather than of values by block."""
    return isinstance(setting, list) and isinstance(setting[0], Mapping)


def _by_role(setting: Any, path: str, sources: Collection[str] = ()) -> Any:
    """The canonical form of a setting that does not differ by source.

    Args:
        sources: suggested where a key is no role.
    """
    if isinstance(setting, Mapping) and "value" in setting:
        return _filters([setting], path)
    if isinstance(setting, (list, tuple)) and any(isinstance(item, Mapping) for item in setting):
        return _filters(setting, path)
    if not isinstance(setting, Mapping):
        return _row(setting, path)
    _refuse_unknown(setting, path, [*ROLES, *sources], "role")
    table = _each(_row, setting, path)
    if not table:
        raise ValueError(f"{path}: empty")
    if "other" not in table:
        missing = [role for role in ROLES if role not in table and role != "other"]
        if missing:
            raise ValueError(f"{path}: no value for {', '.join(missing)}. Add the key 'other'")
        return table
    rest = table["other"]
    differing = {role: table[role] for role in ROLES if table.get(role, rest) != rest}
    return {**differing, "other": rest} if differing else rest


def _filters(lines: Iterable[Any], path: str) -> Any:
    """The lines up to the first for all tensors, without those that change nothing."""
    kept: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        at = f"{path}.{number}"
        if not isinstance(line, Mapping) or "value" not in line:
            raise ValueError(f"{at}: expected the keys filter and value, got {shown(line)}")
        _refuse_unknown(line, at, ("filter", "value"), "key")
        part = line.get("filter")
        if part is not None and not isinstance(part, str):
            raise ValueError(f"{at}.filter: expected a part of tensor names, got {shown(part)}")
        value = _row(line["value"], f"{at}.value")
        if part in (None, "", "*"):
            while kept and kept[-1]["value"] == value:
                kept.pop()
            return [*kept, {"value": value}] if kept else value
        if not any(earlier["filter"] in part for earlier in kept):
            kept.append({"filter": part, "value": value})
    return kept


def _row(setting: Any, path: str) -> Any:
    """A scalar, or a list of scalars that are not all equal."""
    if isinstance(setting, (list, tuple)):
        row = [_scalar(value, path) for value in setting]
        if not row:
            raise ValueError(f"{path}: an empty list")
        return row[0] if all(value == row[0] for value in row) else row
    return _scalar(setting, path)


def _scalar(value: Any, path: str) -> Scalar:
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)) and is_computable(value):
        return float(value) + 0.0  # -0.0 and 0.0 are the same recipe
    raise ValueError(f"{path}: expected a finite number, a word or true/false, got {shown(value)}")


def _each(canonical_of: Callable[[Any, str], Any], items: Mapping[str, Any], path: str) -> Any:
    """The canonical forms of several keys, the mistakes of all in one error."""
    forms: dict[str, Any] = {}
    problems: list[str] = []
    for key, setting in items.items():
        try:
            forms[key] = canonical_of(setting, f"{path}.{key}")
        except ValueError as error:
            problems += error.args
    if problems:
        raise WrongValuesError(*problems)
    return forms


def _refuse_unknown(
    setting: Mapping[str, Any], path: str, known: Collection[str], noun: str
) -> None:
    wrong = [
        f"{path}.{key}: no such {noun}.{did_you_mean(str(key), known)}"
        for key in setting
        if key not in known
    ]
    if wrong:
        raise WrongValuesError(*wrong)
