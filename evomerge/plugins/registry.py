"""Components found by file name, with options read from their signature.

A folder such as ``evomerge/operators`` holds one component per file. The file's name is the
public name, the keyword arguments of the component are its YAML keys. There is no list to edit.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from evomerge.errors import ConfigError, InputError

T = TypeVar("T")

_SHOWN = 100  # characters of a wrong value
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
        raise ConfigError(f"no {kind} is called {name!r}.{did_you_mean(name, names(package))}")
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
        return f" Did you mean {near[0]!r}?"
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
    return create_model(f"{name}_options", __config__=ConfigDict(extra="forbid"), **fields)


def validate_options(
    component: Callable[..., Any], options: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The options, converted to the types of the component's signature.

    Raises:
        ConfigError: every unknown key (with a suggestion) and every wrong value, at once.
    """
    model = options_model(component)
    try:
        valid = model.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(explain(error, where, model)) from None
    return {key: getattr(valid, key) for key in model.model_fields}


@dataclass(frozen=True)
class Component(Generic[T]):
    """A class found by name, with the validated options that it will be made with."""

    kind: type[T]
    options: Mapping[str, Any]

    def make(self, *arguments: Any) -> T:
        """A new one."""
        return self.kind(*arguments, **self.options)


def component(role: str, kind: type[T], keys: Mapping[str, Any]) -> Component[T]:
    """What a name and its options stand for.

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
        raise ConfigError([f"{role}.name: {problem}" for problem in error.problems]) from None
    return Component(found, validate_options(found, options, f"{role}."))


def made_of(
    component: Callable[..., T], options: Mapping[str, Any], where: str, *arguments: Any
) -> T:
    """What a component makes of arguments and options.

    Raises:
        ConfigError: as `validate_options`, and with it what the component says of the options that
            are right; sentences that speak of a wrong one are left out, as that may be why.
        InputError: what the component says.
    """
    try:
        return component(*arguments, **validate_options(component, options, where))
    except ConfigError as error:
        model, wrong = options_model(component), _wrong_keys(component, options)
        if not wrong:
            raise
        rest = {key: value for key, value in options.items() if key not in wrong}
        wrong |= {n for k in wrong for n in difflib.get_close_matches(k, model.model_fields, n=1)}
        problems = list(error.problems)
        try:
            component(*arguments, **validate_options(component, rest, where))
        except InputError as other:
            problems += [p for p in other.problems if not wrong & set(re.findall(r"\w+", p))]
        raise ConfigError(problems) from None


def _wrong_keys(component: Callable[..., Any], options: Mapping[str, Any]) -> set[str]:
    try:
        options_model(component).model_validate(dict(options))
    except ValidationError as error:
        return {str(item["loc"][0]) for item in error.errors()}
    return set()


def explain(error: ValidationError, where: str, model: type[BaseModel]) -> list[str]:
    """A pydantic error as sentences: where, what is wrong, and the nearest known key.

    Args:
        where: what stands before the keys, e.g. ``search.yaml: `` or ``optimizer.``.
    """
    problems = []
    for item in error.errors():
        path = where + ".".join(str(part) for part in item["loc"])
        path = path if item["loc"] else where.rstrip(".: ")
        if item["type"] == "extra_forbidden":
            known = _keys_at(model, item["loc"][:-1])
            problems.append(f"{path}: unknown key.{did_you_mean(str(item['loc'][-1]), known)}")
        elif item["type"] == "missing":
            problems.append(f"{path}: this key is required.{_example(model, item['loc'])}")
        elif item["type"] == "value_error":
            problems.append(f"{path}: {item['msg'].removeprefix('Value error, ')}")
        else:
            message = _EXPECTED.get(item["type"], item["msg"])
            if item["type"] == "model_type":
                message = f"{message}: {', '.join(_keys_at(model, item['loc']))}"
            problems.append(f"{path}: {message} (got {_shown(item['input'])})")
    return problems


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _example(model: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """How a key is written, where its model says so."""
    for part in path[:-1]:
        model = _inside(model, part)
    field = model.model_fields.get(str(path[-1]))
    return f" For example {field.examples[0]}" if field and field.examples else ""


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model nested at ``path``, as far as the annotations tell."""
    for part in path:
        model = _inside(model, part)
    return list(model.model_fields)


def _inside(model: type[BaseModel], part: int | str) -> type[BaseModel]:
    """The model of what a key holds; the same one at a dict key or a list index."""
    field = model.model_fields.get(str(part))
    if field is None:
        return model
    for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
        for inner in (candidate, *getattr(candidate, "__args__", ())):
            if inspect.isclass(inner) and issubclass(inner, BaseModel):
                model = inner
    return model
