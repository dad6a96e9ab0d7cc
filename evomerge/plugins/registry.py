"""Components found by file name, with options read from their signature.

A folder such as ``evomerge/operators`` holds one component per file. The file's name is the
public name, the keyword arguments of the component are its YAML keys. There is no list to edit.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from evomerge.errors import ConfigError, InputError, Problem, shown
from evomerge.keys import Keys

T = TypeVar("T")

# what a person writes in YAML, in place of Python's types
_EXPECTED = {
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected keys with values",
    "model_type": "expected some of these keys",
}


def names(package: str) -> tuple[str, ...]:
    """Public names of the components in ``evomerge.<package>``, sorted."""
    # plug-ins append a folder to the path at any time, also after the first look
    return _names(tuple(importlib.import_module(f"evomerge.{package}").__path__))


@cache
def _names(folders: tuple[str, ...]) -> tuple[str, ...]:
    found = (info.name for info in pkgutil.iter_modules(folders))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def module(package: str, name: str) -> ModuleType:
    """The module that holds component ``name``.

    Raises:
        ConfigError: no such component; the message suggests the nearest name.
    """
    if name not in names(package):
        kind = package.removesuffix("s")
        raise ConfigError(f"no {kind} is called {shown(name)}.{did_you_mean(name, names(package))}")
    return importlib.import_module(f"evomerge.{package}.{name}")


def find(package: str, name: str, kind: type[T]) -> type[T]:
    """The one public subclass of ``kind`` that the file of component ``name`` defines."""
    home = module(package, name)
    found = [
        item
        for item in vars(home).values()
        if inspect.isclass(item)
        and issubclass(item, kind)
        and item.__module__ == home.__name__
        and not item.__name__.startswith("_")
    ]
    if len(found) != 1:
        raise TypeError(f"{home.__name__} must define exactly one public {kind.__name__}")
    return found[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?``, or the list of what is known when nothing is near."""
    choices = list(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {shown(near[0])}?"
    return f" Known: {', '.join(choices)}." if choices else ""


@cache
def options_model(component: Callable[..., Any]) -> type[BaseModel]:
    """A strict pydantic model of the keyword-only options of a component."""
    target = component.__init__ if inspect.isclass(component) else component
    signature = inspect.signature(target, eval_str=True)
    fields: dict[str, Any] = {
        p.name: (p.annotation, ... if p.default is inspect.Parameter.empty else p.default)
        for p in signature.parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    name = getattr(component, "__name__", "component")
    return create_model(f"{name}_options", __base__=Keys, **fields)


def validate_options(
    component: Callable[..., Any], options: Mapping[str, Any], *path: str, file: str = ""
) -> dict[str, Any]:
    """The options, converted to the types of the component's signature.

    Args:
        path, file: where the options are, see `Problem`.

    Raises:
        ConfigError: every unknown key (with a suggestion) and every wrong value, at once.
    """
    model = options_model(component)
    try:
        valid = model.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(explain(error, model, *path, file=file)) from None
    return {key: getattr(valid, key) for key in model.model_fields}


@dataclass(frozen=True)
class Component(Generic[T]):
    """A class found by name, with the validated options that it will be made with."""

    kind: type[T]
    options: Mapping[str, Any]

    def make(self, *arguments: Any) -> T:
        """A new instance, from these arguments and the options."""
        return self.kind(*arguments, **self.options)


def component(role: str, kind: type[T], keys: Mapping[str, Any]) -> Component[T]:
    """The class and validated options that ``{name: ..., option: ...}`` describes.

    Args:
        role: ``optimizer`` stands for the package ``evomerge.optimizers``.
        keys: ``name``, and the options.

    Raises:
        ConfigError: no such component, or options that it does not take.
    """
    options = dict(keys)
    try:
        found = find(f"{role}s", options.pop("name"), kind)
    except ConfigError as error:
        raise ConfigError([p.under(role, "name") for p in error.details]) from None
    return Component(found, validate_options(found, options, role))


def make(component: Callable[..., T], options: Mapping[str, Any], *arguments: Any) -> T:
    """A component made from arguments and from options, which are validated first.

    Raises:
        ConfigError: as `validate_options`, and with it what the component refuses of the options
            that are valid, unless that may be due to an invalid one.
        InputError: what the component refuses.
    """
    try:
        valid = validate_options(component, options)
    except ConfigError as error:
        problems = list(error.details)
        wrong = {str(problem.path[0]) for problem in problems}
        rest = {key: value for key, value in options.items() if key not in wrong}
        known = options_model(component).model_fields
        wrong |= {near for key in wrong for near in difflib.get_close_matches(key, known, n=1)}
        try:
            component(*arguments, **validate_options(component, rest))
        except InputError as other:
            problems += [p for p in other.details if wrong.isdisjoint((*p.path[:1], *p.about))]
        raise ConfigError(problems) from None
    return component(*arguments, **valid)


def explain(
    error: ValidationError, model: type[BaseModel], *path: str | int, file: str = ""
) -> list[Problem]:
    """A pydantic error as problems, each with its cure: an example, or the nearest known key.

    Every argument of a validator's ``ValueError`` is a mistake, see `WrongValuesError`.

    Args:
        path, file: where the model's keys are, see `Problem`.
    """
    problems = []
    for item in error.errors():
        place = item["loc"]
        match item["type"]:
            case "extra_forbidden":
                cure = did_you_mean(str(place[-1]), _keys_at(model, place[:-1]))
                wrong = [Problem((), "unknown key.", cure)]
            case "missing":
                wrong = [Problem((), "this key is required.", _example(model, place))]
            case "value_error":
                wrong = list(InputError(item["ctx"]["error"].args).details)
            case kind:
                expected = _EXPECTED.get(kind, item["msg"])
                if kind == "model_type":
                    expected = f"{expected}: {', '.join(_keys_at(model, place))}"
                wrong = [Problem((), f"{expected} (got {shown(item['input'])})")]
        problems += [problem.under(*path, *place).within(file) for problem in wrong]
    return problems


def _example(model: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """The example that a key's pydantic field gives; empty without one."""
    for part in path[:-1]:
        model = _inside(model, part)
    field = model.model_fields.get(str(path[-1]))
    return f"For example {field.examples[0]}" if field and field.examples else ""


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model nested at ``path``, as far as the annotations tell."""
    for part in path:
        model = _inside(model, part)
    return list(model.model_fields)


def _inside(model: type[BaseModel], part: int | str) -> type[BaseModel]:
    """The pydantic model of a key's value; at a dict key or list index, the model itself."""
    field = model.model_fields.get(str(part))
    if field is None:
        return model
    for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
        for inner in (candidate, *getattr(candidate, "__args__", ())):
            if inspect.isclass(inner) and issubclass(inner, BaseModel):
                model = inner
    return model
