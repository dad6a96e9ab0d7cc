"""What signature and docstring of an operator say, as data: for listings and pages."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from evomerge.operators import _modifiers
from evomerge.operators._operator import Operator

_SECTION = re.compile(r"^(Args|Returns|Raises|Source):", re.MULTILINE)
_KINDS = {float: "number", int: "whole number", bool: "true or false", str: "word"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter, as a person sets it in YAML.

    Attributes:
        per_source: whether every source has its own value.
        kind: ``number``, ``whole number``, ``true or false`` or ``word``.
        domain: what it may be: an interval, or the words; empty for any of its kind.
        about: the docstring's words.
    """

    name: str
    per_source: bool
    kind: str
    domain: str
    default: Any
    about: str


@dataclass(frozen=True, slots=True)
class Description:
    """One operator, in words.

    Attributes:
        about: the sentence that its file begins with.
        text: what it computes: the docstring down to the arguments.
        operands: what it merges: the docstring of ``x``.
        needs: beyond sources.
        settings: its own parameters, without those of `modifiers`.
        modified: whether it has those too.
        errors, source: as the docstring has them.
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
    """What there is to know of an operator."""
    sections = _sections(operator.function)
    words = _arguments(sections.get("Args", ""))
    own = [name for name in operator.parameters if name not in _modifiers.NAMES]
    return Description(
        operator.name,
        (inspect.unwrap(operator.function).__globals__["__doc__"] or "").strip(),
        sections[""],
        words.get("x", ""),
        tuple(_needs(operator)),
        tuple(_setting(operator, name, words) for name in own),
        len(own) < len(operator.parameters),
        sections.get("Raises", ""),
        sections.get("Source", ""),
    )


def modifiers(operator: Operator) -> tuple[Setting, ...]:
    """The parameters that every operator on task vectors has, of which this must be one."""
    words: dict[str, str] = {}
    for function in (_modifiers.modified, _modifiers.depth_factor):
        words |= _arguments(_sections(function)["Args"])
    return tuple(
        _setting(operator, name, words) for name in operator.parameters if name in _modifiers.NAMES
    )


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
    """Heading to text; the text before the first heading has none."""
    parts = _SECTION.split(inspect.getdoc(function) or "")
    return {"": parts[0].strip()} | {
        heading: inspect.cleandoc(text).strip()
        for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _arguments(text: str) -> dict[str, str]:
    """Name to description, each on one line."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", text):
        names, _, about = entry.partition(":")
        found |= {name.strip(): " ".join(about.split()) for name in names.split(",")}
    return found


def _setting(operator: Operator, name: str, words: Mapping[str, str]) -> Setting:
    about = words.get(name, "").removeprefix("(M,) ").removeprefix("(1,) ").removeprefix("(2,) ")
    if name in operator.per_source:
        bound = operator.per_source[name]
        kind = "whole number" if bound.whole else "number"
        above, least = _finite(bound.above), _finite(bound.least)
        domain = _interval(gt=above, ge=least, le=_finite(bound.most))
        return Setting(name, True, kind, domain, bound.default, about)
    field = operator.options.model_fields[name]
    kind, domain = _type(field.annotation, field.metadata)
    return Setting(name, False, kind, domain, operator.shared[name], about)


def _type(annotation: Any, limits: Sequence[Any] = ()) -> tuple[str, str]:
    """The kind and the domain of a type, with what is attached to it."""
    members = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _type(members[0], [one for m in members[1:] for one in getattr(m, "metadata", [m])])
    if get_origin(annotation) is Literal:
        return "word", ", ".join(map(str, members))
    if members:  # a union
        found = [_type(member) for member in members if member is not NoneType]
        domains = [domain for _, domain in found if domain]
        return found[0][0], ", ".join(domains + ["null"] * (NoneType in members))
    given = {
        key: getattr(limit, key)
        for limit in limits
        for key in ("gt", "ge", "lt", "le")
        if hasattr(limit, key)
    }
    return _KINDS[annotation], _interval(**given)


def _interval(
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> str:
    """``[0, 1)``, ``> 0`` and the like; empty for no limits."""
    low = ge if gt is None else gt
    high = le if lt is None else lt
    if low is None or high is None:
        limits = {">": gt, "≥": ge, "<": lt, "≤": le}
        return " ".join(f"{sign} {v:g}" for sign, v in limits.items() if v is not None)
    return f"{'[' if gt is None else '('}{low:g}, {high:g}{']' if lt is None else ')'}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
