"""What the keys of a YAML may hold: known names, plain data, numbers that can be computed with."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from numbers import Integral, Real
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from evomerge.errors import ConfigError, Problem, WrongValuesError, shown

MOST_LEVELS = 100  # of keys and lists inside one another
_NAME_BYTES = 200  # of 255, so that names of files beside it fit, too
_LARGEST = 3.4028234663852886e38  # of float32, in which merges compute

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # SQLite's largest number
Count = Annotated[int, Field(ge=1, le=10**9)]
AtOnce = Annotated[int, Field(ge=1, le=10_000)]  # what is held or waited for side by side
Threads = Annotated[int, Field(ge=1, le=1024)]
Seconds = Annotated[float, Field(gt=0, le=1e9)]  # 30 years; waiting for 300 overflows


def _fits_a_folder(name: str) -> str:
    if len(name.encode()) > _NAME_BYTES:
        raise ValueError(f"a folder's name has {_NAME_BYTES} bytes at most, got {shown(name)}")
    return name


# of a folder: not . or ..
FolderName = Annotated[str, Field(pattern=r"^[\w.-]*[\w-][\w.-]*$"), AfterValidator(_fits_a_folder)]


class Keys(BaseModel):
    """Keys that a person writes: unknown ones and numbers that cannot be computed with are refused.

    Refused are infinity, NaN, what float32 cannot hold, and flags in place of numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        if kinds & {int, float} and Any not in kinds:
            found = ((path, _number_problem(one, kinds)) for path, one in _leaves(value, ()))
            if problems := [Problem(path, text) for path, text in found if text]:
                raise WrongValuesError(*problems)
        return value


def _number_problem(value: Any, kinds: Collection[Any]) -> str:
    """Why a number cannot be computed with; empty where it can be, and for what is no number.

    Args:
        kinds: types that its key takes.
    """
    if isinstance(value, bool):
        return "" if bool in kinds else f"expected a number, got {str(value).lower()}"
    if isinstance(value, float) and math.isfinite(value) and not is_computable(value):
        return f"expected a number that float32 can hold, got {value:g}"
    return ""


def is_computable(number: float) -> bool:
    """Whether float32 can hold a number, whose tiniest are 0 there."""
    return abs(number) <= _LARGEST  # false for NaN


def plain(value: Any, path: tuple[str | int, ...] = ()) -> Any:
    """A copy in the types that a YAML holds: None, flags, numbers, texts, lists, keys with values.

    Raises:
        ConfigError: another type, a key that is no text, a text that no file can hold, an infinite
            number of levels; with the path of the first.
    """
    if len(path) > MOST_LEVELS:
        raise ConfigError(Problem(path[:1], f"more than {MOST_LEVELS} levels of keys and lists"))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if text := text_problem(value):
            raise ConfigError(Problem(path, text))
        return str(value)
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str) or text_problem(key)]:
            text = f"the key {shown(odd[0])} is no text."
            raise ConfigError(Problem(path, text, "Put it in quotes."))
        return {str(key): plain(inner, (*path, key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, (*path, number)) for number, inner in enumerate(value)]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    text = f"expected a text, a number, a list or keys with values, got a {type(value).__name__}."
    raise ConfigError(Problem(path, text, "Write it as text or numbers."))


def text_problem(text: str) -> str | None:
    """Why no file and no database can hold a text, or None."""
    if "\0" in text:
        return "a text with a null character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a text with half of a character (a lone surrogate)"
    return None


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    """A copy, refused where a stored YAML would not give it back: infinity, NaN, and as `plain`."""
    try:
        copy: dict[str, Any] = plain(value)
    except ConfigError as error:
        raise WrongValuesError(*error.details) from None
    wrong = [
        Problem(path, f"expected a finite number, got {inner}")
        for path, inner in _leaves(copy, ())
        if isinstance(inner, float) and not math.isfinite(inner)
    ]
    if wrong:
        raise WrongValuesError(*wrong)
    return copy


# Keys and values of another program's, passed on as they are
Plain = Annotated[dict[Any, Any], AfterValidator(_storable)]


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value that is neither a list nor keys with values, and the path to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, number))
    else:
        yield path, value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of; `Any` for nested keys, which check their own."""
    inner = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield Any
    elif inner:
        for one in inner:
            yield from _kinds(one)
    elif isinstance(annotation, type) or annotation is Any:
        yield annotation
