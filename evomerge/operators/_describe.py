"""Signature and docstring of an operator as data, for listings and documentation pages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from evomerge.operators._modifiers import MODIFIERS, NAMES
from evomerge.operators._operator import Operator

_SECTION = re.compile(r"^(Args|Returns|Raises|Source):", re.MULTILINE)
_KINDS = {float: "number", int: "whole number", bool: "true or false", str: "word"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One parameter, as a person sets it in YAML.

    Attributes:
        name: the YAML key.
        per_source: whether every source has its own value.
        kind: ``number``, ``whole number``, ``true or false`` or ``word``.
        domain: an interval, or the words it may be; empty if any of its kind is valid.
        default: used where a recipe gives none.
        about: its description in the docstring.
    """

    name: str
    per_source: bool
    kind: str
    domain: str
    default: Any
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a person reads about one operator.

    Attributes:
        name: its public name.
        about: the first sentence of its file.
        text: what it computes: the docstring up to the arguments.
        operands: what it merges: the docstring's words on ``x``.
        needs: what it needs besides sources.
        settings: its own parameters, without those of `modifiers`.
        modified: whether it has those of `modifiers` too.
        errors: the docstring's section ``Raises``.
        source: the docstring's section ``Source``.
    """

    name: str
    about: str
    text: str
    operands: str
    needs: tuple[str, ...]
    settings: tuple[Setting, ...]
    modified: bool
    errors: str
    source: str


def describe(operator: Operator) -> Description:
    """All that an operator's file says about it."""
    sections = _sections(operator.function)
    words = _arguments(sections.get("Args", ""))
    own = [name for name in operator.parameters if name not in NAMES]
    return Description(
        name=operator.name,
        about=(inspect.unwrap(operator.function).__globals__["__doc__"] or "").strip(),
        text=sections[""],
        operands=words.get("x", ""),
        needs=tuple(_needs(operator)),
        settings=tuple(_setting(operator, name, words) for name in own),
        modified=len(own) < len(operator.parameters),
        errors=sections.get("Raises", ""),
        source=sections.get("Source", ""),
    )


def modifiers(operator: Operator) -> tuple[Setting, ...]:
    """The parameters that an operator on task vectors shares with all others of its kind."""
    words = {
        f"{modifier.__name__}_{name}": about
        for modifier in MODIFIERS
        for name, about in _arguments(_sections(modifier)["Args"]).items()
    }
    return tuple(_setting(operator, name, words) for name in operator.parameters if name in NAMES)


def _needs(operator: Operator) -> Iterable[str]:
    if operator.on == "task_vectors":
        yield "a base"
    if operator.on == "pair":
        yield "two models"
    elif operator.sources is not None:
        yield {1: "one source", 2: "two sources"}.get(
            operator.sources, f"{operator.sources} sources"
        )
    if operator.statistics == "raw":
        yield "a table of coefficients"
    elif operator.statistics is not None:
        yield {"fisher": "Fisher values", "grams": "Gram matrices"}.get(
            operator.statistics, operator.statistics.replace("_", " ")
        )
    if operator.experimental:
        yield "experimental: true"


def _sections(function: Any) -> dict[str, str]:
    """The sections of a docstring by heading; "" has the text before the first."""
    parts = _SECTION.split(inspect.getdoc(function) or "")
    return {"": parts[0].strip()} | {
        heading: inspect.cleandoc(text).strip()
        for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _arguments(text: str) -> dict[str, str]:
    """Parameter to description on one line."""
    words: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", text):
        names, _, about = entry.partition(":")
        words |= {name.strip(): " ".join(about.split()) for name in names.split(",")}
    return words


def _setting(operator: Operator, name: str, words: Mapping[str, str]) -> Setting:
    about = words.get(name, "").removeprefix("(M,) ").removeprefix("(1,) ").removeprefix("(2,) ")
    if name in operator.per_source:
        bound = operator.per_source[name]
        kind = "whole number" if bound.whole else "number"
        domain = _interval(gt=bound.above, ge=bound.least, le=bound.most)
        default = bound.default
    else:
        field = operator.options.model_fields[name]
        kind, domain = _type(field.annotation, field.metadata)
        default = operator.shared[name]
    return Setting(
        name=name,
        per_source=name in operator.per_source,
        kind=kind,
        domain=domain,
        default=default,
        about=about,
    )


def _type(annotation: Any, limits: Sequence[Any] = ()) -> tuple[str, str]:
    """`Setting.kind` and `Setting.domain` of a type and the limits attached to it."""
    members = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _type(members[0], [one for m in members[1:] for one in getattr(m, "metadata", [m])])
    if get_origin(annotation) is Literal:
        return "word", ", ".join(map(str, members))
    if members:  # a union
        kinds = [_type(member) for member in members if member is not NoneType]
        domains = [domain for _, domain in kinds if domain]
        return kinds[0][0], ", ".join(domains + ["null"] * (NoneType in members))
    given = {
        key: getattr(limit, key)
        for limit in limits
        for key in ("gt", "ge", "lt", "le")
        if hasattr(limit, key)
    }
    return _KINDS[annotation], _interval(**given)


def _interval(gt: float = -inf, ge: float = -inf, lt: float = inf, le: float = inf) -> str:
    """``[0, 1)``, ``> 0`` and the like; empty for no limits."""
    low, high = max(gt, ge), min(lt, le)
    if inf in (-low, high):
        limits = {">": gt, "≥": ge, "<": lt, "≤": le}
        return " ".join(f"{sign} {v:g}" for sign, v in limits.items() if isfinite(v))
    return f"{'(' if low == gt else '['}{low:g}, {high:g}{')' if high == lt else ']'}"
