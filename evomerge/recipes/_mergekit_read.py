"""A recipe from mergekit YAML that merges to the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from pydantic import ValidationError

from evomerge.errors import RecipeError
from evomerge.recipes._mergekit_methods import FIXED, METHODS, Method, their_name
from evomerge.recipes._mergekit_settings import Scope, Settings, check_keys
from evomerge.recipes.recipe import ROLES, Recipe, Scalar
from evomerge.registry import did_you_mean, explain

_TOP = (
    "merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer",
)  # fmt: skip
_REFUSED = {
    "modules": "evomerge merges models of one module. Use models",
    "chat_template": "evomerge keeps the base's. Remove this key",
}
_HINTS = ("int8_mask",)  # how much memory mergekit takes; the result is the same
_DEFAULT_DTYPE = "bfloat16"


def from_mergekit(content: dict[str, Any], where: str, layers_of: Callable[[str], int]) -> Recipe:
    """The recipe of a mergekit YAML: ``models``, or one slice with all layers of every model.

    Gradients become one value per block, filters become roles. What differs from mergekit 0.1.5:
    arithmetic is float32, whatever ``dtype`` says; random masks are evomerge's own; without
    ``dtype`` and ``out_dtype`` the weights are written in bfloat16, mergekit writes what the
    sources have.
    Sources are named after the last part of their path.

    Args:
        content: the parsed YAML.
        where: the file's name, for messages.
        layers_of: model to its number of blocks; asked only if there are gradients or slices.

    Raises:
        RecipeError: unknown keys, and everything that a recipe cannot say, at once.
    """
    name = str(content.get("merge_method"))
    if name not in METHODS:
        known = did_you_mean(name, METHODS)
        raise RecipeError(f"{where}: merge_method: {name!r} cannot be read.{known}")
    return _Reader(content, where, layers_of, METHODS[name]).recipe()


class _Entry(NamedTuple):
    """One model of the YAML: its own settings before those of its slice."""

    model: str
    scopes: list[Scope]
    listed: bool = True


class _Reader:
    """One import, problems gathered."""

    def __init__(
        self,
        content: dict[str, Any],
        where: str,
        layers_of: Callable[[str], int],
        method: Method,
    ) -> None:
        self.content, self.where, self.method = content, where, method
        self.name: str = content["merge_method"]
        self.layers_of = cache(layers_of)
        self.problems: list[str] = []
        self.base: str | None = None

    def recipe(self) -> Recipe:
        """The recipe, or one error with all problems."""
        check_keys(self.content, "", _TOP, self._problem, _REFUSED)
        if self.content.get("base_model") is not None:
            self.base = self._reference(self.content["base_model"], "base_model")
        slice_, entries = self._entries()
        if not entries and not self.problems:
            self.problems.append(f"{self.where}: models: expected a list of models")
        self._stop()
        base = self.base or entries[0].model
        sources = self._sources(entries, base)
        self._stop()
        self.base = base
        parameters = self._parameters(sources, slice_)
        tokenizer = self._tokenizer()
        self._stop()
        dtype = self.content.get("out_dtype") or self.content.get("dtype") or _DEFAULT_DTYPE
        keys = {
            "base": base,
            "sources": {name: entry.model for name, entry in sources.items()},
            "operator": self.name,
            "parameters": parameters,
            "dtype": str(dtype).removeprefix("torch."),
            "tokenizer": tokenizer,
        }
        try:
            return Recipe.model_validate(keys)
        except ValidationError as error:
            raise RecipeError(explain(error, f"{self.where}: ", Recipe)) from None

    def _stop(self) -> None:
        if self.problems:
            raise RecipeError(dict.fromkeys(self.problems))

    def _problem(self, path: str, sentence: str) -> None:
        self.problems.append(f"{self.where}: {path}: {sentence}")

    def _reference(self, value: Any, path: str) -> str:
        """A model as we write it: a folder, or org/name[@revision]."""
        if isinstance(value, dict) and isinstance(value.get("model"), dict):
            if value.get("lora") or value.get("override_architecture"):
                self._problem(path, "an adapter or another architecture cannot be read")
            inner = value["model"]
            revision = inner.get("revision")
            return f"{inner.get('path')}@{revision}" if revision else f"{inner.get('path')}"
        if isinstance(value, dict):
            return self._reference(value.get("model"), path)
        if not isinstance(value, str):
            self._problem(path, f"expected a model, got {value!r}")
            return ""
        if "+" in value:
            self._problem(path, f"{value}: merge the adapter into its model first")
        return value

    def _entries(self) -> tuple[dict[str, Any], list[_Entry]]:
        """The slice's own keys, and every model."""
        if "models" in self.content and "slices" in self.content:
            self._problem("slices", "give either models or slices")
        if "slices" not in self.content:
            entries = self._list(self.content.get("models"), "models", ("model", "parameters"))
            if self.base is not None and self.base not in [entry.model for entry in entries]:
                entries.append(_Entry(self.base, [], listed=False))
            return {}, entries
        slices = self.content["slices"]
        if not isinstance(slices, list) or len(slices) != 1:
            count = len(slices) if isinstance(slices, list) else 0
            self._problem(
                "slices", f"expected one slice with all layers of every model, got {count}"
            )
            return {}, []
        known = ("sources", "base_model", "parameters")
        slice_ = check_keys(slices[0], "slices.0", known, self._problem)
        if slice_.get("base_model") is not None:
            self.base = self._reference(slice_["base_model"], "slices.0.base_model")
        keys = ("model", "layer_range", "parameters")
        entries = self._list(slice_.get("sources"), "slices.0.sources", keys)
        for number, entry in enumerate(entries):
            if not entry.model:
                continue  # no mapping, or one without a model: said already
            layers = self.layers_of(entry.model)
            found = slice_["sources"][number].get("layer_range")
            if found != [0, layers]:
                self._problem(
                    f"slices.0.sources.{number}.layer_range",
                    f"expected all layers, [0, {layers}], got {found!r}",
                )
        return slice_, entries

    def _list(self, items: Any, path: str, known: Sequence[str]) -> list[_Entry]:
        if not isinstance(items, list):
            self._problem(path, "expected a list of models")
            return []
        entries = []
        for number, item in enumerate(items):
            at = f"{path}.{number}"
            keys = check_keys(item, at, known, self._problem)
            model = self._reference(keys.get("model"), f"{at}.model") if keys else ""
            entries.append(_Entry(model, [(f"{at}.parameters", keys.get("parameters"))]))
        models = [entry.model for entry in entries]
        for model in dict.fromkeys(models):
            if models.count(model) > 1:
                self._problem(path, f"{model} is given {models.count(model)} times")
        return entries

    def _sources(self, entries: list[_Entry], base: str) -> dict[str, _Entry]:
        """The models that are sources to us, by name."""
        if self.name != "linear" and self.base is None:
            self._problem("base_model", f"{self.name} needs one")
        others = [entry for entry in entries if entry.model != base]
        if self.name == "slerp":
            if len(others) != 1:
                self._problem("models", f"slerp takes the base and one more, got {len(others)}")
            # the base among the models is the first of two sources
            chosen = [e for e in entries if e.model == base and e.listed] + others
        elif self.name == "linear":
            weightless = [e for e in entries if e.model == base and _weight(e) == 0]
            chosen = others if others and weightless and self.base else entries
        else:
            chosen = others  # mergekit ignores what is set for the base
        if not chosen:
            self._problem("models", "expected one besides the base")
        return dict(zip(_names([entry.model for entry in chosen]), chosen, strict=True))

    def _parameters(self, sources: dict[str, _Entry], slice_: dict[str, Any]) -> dict[str, Any]:
        shared = [
            ("slices.0.parameters", slice_.get("parameters")),
            ("parameters", self.content.get("parameters")),
        ]
        ours = {their_name(name): name for name in self.method.defaults if name not in FIXED}
        for path, scope in shared:
            self._check_parameters(path, scope, [*ours, *_HINTS])
        for entry in sources.values():
            for path, scope in entry.scopes:
                self._check_parameters(path, scope, [*self.method.per_source, *_HINTS])
        self._stop()
        settings = Settings(self.method, lambda: self.layers_of(str(self.base)), self._problem)
        parameters: dict[str, Any] = {}
        for name in self.method.per_source:
            tables = {
                source: settings.table(name, [*entry.scopes, *shared], f"{name} for {entry.model}")
                for source, entry in sources.items()
            }
            given = {source: table for source, table in tables.items() if table is not None}
            if given:
                parameters[name] = given
        for theirs, name in ours.items():
            if name in self.method.shared:
                table = settings.table(name, shared, theirs)
                if table is not None:
                    parameters[name] = table
        if "rescale" in self.method.shared:
            # mergekit restores the sum of magnitudes, unless told not to
            parameters["rescale"] = _map(
                parameters.get("rescale", True), lambda on: "l1" if on else "none"
            )
        return parameters

    def _check_parameters(self, path: str, scope: Any, known: Sequence[str]) -> None:
        if scope is None:
            return
        if not isinstance(scope, dict):
            self._problem(path, f"expected keys and values, got {scope!r}")
            return
        for key, value in scope.items():
            if key in known or (key == "rescale" and value is False):
                continue
            if key in map(their_name, self.method.shared):
                self._problem(f"{path}.{key}", "mergekit reads this from the parameters of all "
                                               "models alone. Move it there.")  # fmt: skip
            else:
                self._problem(
                    f"{path}.{key}",
                    f"evomerge's {self.name} has no such parameter.{did_you_mean(str(key), known)}",
                )

    def _tokenizer(self) -> str | None:
        source, path = self.content.get("tokenizer_source"), "tokenizer_source"
        if self.content.get("tokenizer") is not None:
            path = "tokenizer"
            keys = check_keys(self.content["tokenizer"], path, ("source",), self._problem)
            source = keys.get("source", "union")
        if source is None:
            return None
        if source != "base" and (source == "union" or self._reference(source, path) != self.base):
            self._problem(path, f"evomerge keeps the base's tokenizer: base, got {source!r}")
        return "base"


def _weight(entry: _Entry) -> Any:
    """The weight that a model sets itself."""
    for _, scope in entry.scopes:
        if isinstance(scope, dict):
            return scope.get("weight")
    return None


def _names(models: Sequence[str]) -> list[str]:
    """A short name for each model: the last part of its path, numbered where taken."""
    names: list[str] = []
    for model in models:
        stem = model.partition("@")[0].rstrip("/").rpartition("/")[2] or "model"
        stem = f"{stem}-model" if stem in ROLES else stem
        name, number = stem, 2
        while name in names:
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
    return names


def _map(setting: Any, change: Callable[[Any], Scalar]) -> Any:
    """A setting with every scalar in it changed."""
    if isinstance(setting, dict):
        return {key: _map(value, change) for key, value in setting.items()}
    if isinstance(setting, list):
        return [_map(value, change) for value in setting]
    return change(setting)
