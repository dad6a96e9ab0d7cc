"""The parameters of a recipe as mergekit's: names, gradients and filters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from evomerge.errors import ExportError
from evomerge.recipes import Recipe, Scalar
from evomerge.recipes._settings import is_filters
from evomerge.recipes.mergekit.methods import METHODS, RESCALED, Method
from evomerge.recipes.mergekit.write_layout import Layout, Value


def with_rescale(recipe: Recipe, method: Method) -> tuple[Recipe, Method]:
    """A recipe whose sparsified task vectors get their sum of magnitudes back, in mergekit's way.

    Its ``ties`` and ``breadcrumbs`` do that themselves.
    """
    given = dict(recipe.parameters)
    kept = RESCALED.get(recipe.operator)
    if kept is None or "density" in given or given.get("sparsify_method") != kept:
        return recipe, method
    renamed = {"density": "sparsify_density", "rescale": "sparsify_rescale"}
    if "gamma" in method.shared:
        renamed["gamma"] = "sparsify_gamma"
    del given["sparsify_method"]
    for ours, name in renamed.items():
        if name in given:
            given[ours] = given.pop(name)
    shared = {**method.shared, "rescale": "none"}
    return recipe.model_copy(update={"parameters": given}), replace(method, shared=shared)


class Values:
    """Looks values up, and writes settings.

    Args:
        recipe: whose parameters they are.
        name: mergekit's, of the method.
        layout: of the merged model.

    Attributes:
        problems: what could not be written.
    """

    def __init__(self, recipe: Recipe, name: str, method: Method, layout: Layout) -> None:
        self.recipe, self.name, self.method, self.layout = recipe, name, method, layout
        self.problems: list[str] = []

    def at(self, name: str, source: str | None) -> Value:
        """One parameter's values."""
        known = {"negative": "subtract", **self.method.defaults, **self.method.fixed}
        default = known[name]

        def value(role: str, layer: int, tensor: str) -> Scalar:
            found = self.recipe.setting(name, source, role, layer, tensor)
            return default if found is None else found

        return value

    def is_given(self, name: str, source: str | None) -> bool:
        """Whether a parameter must be written."""
        given = self._setting_of(name, source)
        of_others = isinstance(given, dict) and any(key in self.recipe.sources for key in given)
        return name in self.method.needed or (given is not None and not of_others)

    def write(self, name: str, source: str | None) -> Any:
        """A parameter as mergekit writes it; None, and a problem noted, where it cannot."""
        try:
            return self.layout.setting(self._value(name, source), self._raw(name, source))
        except ExportError as error:
            self.problems += [f"parameters.{name}: {problem}" for problem in error.problems]
            return None

    def cut(self, name: str, source: str | None, number: int) -> Any:
        """The same for one slice of the stack, by its number."""
        return self.layout.cut(self.write(name, source), number, self._value(name, source))

    def _value(self, name: str, source: str | None) -> Value:
        if name == "rescale":
            return lambda *spot: self.at("rescale", None)(*spot) == "l1"
        value = self.at(name, source)
        if name != "weight" or not self.inverse:
            return value
        density, rescale = self.at("density", source), self.at("rescale", None)

        def divided(*spot: Any) -> Scalar:
            w, d = value(*spot), density(*spot)
            assert isinstance(w, float) and isinstance(d, float)
            return w / d if rescale(*spot) == "inverse" else w

        return divided

    def _raw(self, name: str, source: str | None) -> Any:
        """The setting where it can be written as it stands, for filters."""
        folded = ["weight", "density", "rescale"] if name == "weight" and self.inverse else [name]
        settings = [self._setting_of(one, source) for one in folded]
        if name == "rescale" or len(folded) > 1:
            return "by name" if any(map(is_filters, settings)) else None
        return settings[0]

    def _setting_of(self, name: str, source: str | None) -> Any:
        setting = self.recipe.parameters.get(name)
        if source is not None and isinstance(setting, dict) and source in setting:
            return setting[source]
        return setting

    @property
    def inverse(self) -> bool:
        """Whether kept elements are divided by the density somewhere."""
        if "rescale" not in self.method.shared or self.name in RESCALED:
            return False
        return any(self.at("rescale", None)(*spot) == "inverse" for spot in self.layout.spots)

    def rescale_problems(self) -> Iterator[str]:
        """Ways to restore what was dropped that mergekit does not have."""
        rescale = self.at("rescale", None) if "rescale" in self.method.shared else None
        words = {rescale(*spot) for spot in self.layout.spots} if rescale else set()
        if self.name in RESCALED and (wrong := words - {"none", "l1"}):
            yield (
                f"parameters.sparsify_rescale: mergekit's {self.name} has no {min(map(str, wrong))}"
                ". Set it to l1."
            )
        if self.name.startswith("della") and self.inverse and self._drops():
            yield (
                "parameters.rescale: mergekit cannot divide each element by its own probability. "
                "Set rescale: l1."
            )

    def _drops(self) -> bool:
        densities = [self.at("density", source) for source in self.recipe.sources]
        return any(density(*spot) != 1 for density in densities for spot in self.layout.spots)

    def needs_dialect(self) -> bool:
        """Whether the YAML would be read otherwise without that key."""
        given = self.recipe.parameters
        if "rescale" in METHODS[self.name].shared:
            rescale = self.at("rescale", None)
            if any(rescale(*spot) == "l1" for spot in self.layout.spots):
                return True
        marked = self.method.dialect
        if given.get("axis") is not None or any(given.get(n) == v for n, v in marked.items()):
            return True
        weights = [self.at("weight", s) for s in self.recipe.sources] if self.method.elects else []
        return any(float(w(*spot)) < 0 for w in weights for spot in self.layout.spots)


def has_rows(setting: Any) -> bool:
    """Whether a setting of mergekit's has gradients."""
    if is_filters(setting):
        return any(isinstance(line["value"], list) for line in setting)
    return isinstance(setting, list)
