"""The parameters of a recipe at every tensor, and as mergekit writes them."""

from __future__ import annotations

from typing import Any

from evomerge.errors import ExportError
from evomerge.recipes import Recipe, Scalar
from evomerge.recipes._settings import is_filters
from evomerge.recipes.mergekit.methods import METHODS, NEEDED, RESCALED, MergeMethod
from evomerge.recipes.mergekit.write_settings import SettingWriter, Spot, Value


class Values:
    """The parameters of one recipe.

    Args:
        method: mergekit's for the recipe's operator.
        settings: writes them for the merged model.

    Attributes:
        inverse: whether kept elements are divided by the density in some tensor.
        problems: why parameters could not be written.
    """

    def __init__(self, recipe: Recipe, method: MergeMethod, settings: SettingWriter) -> None:
        self.recipe, self.method, self.settings = recipe, method, settings
        self.problems: list[str] = []
        self._defaults = {"negative": "subtract", **method.defaults, **method.fixed}
        divides = "rescale" in method.shared and method.name not in RESCALED
        self.inverse = divides and "inverse" in self.every("rescale")

    def at(self, name: str, source: str | None, spot: Spot) -> Scalar:
        """One parameter's value for one tensor."""
        own = self.recipe.setting(name, source, *spot)
        return self._defaults[name] if own is None else own

    def every(self, name: str, source: str | None = None) -> list[Scalar]:
        """One parameter's values, without repeats."""
        return list(dict.fromkeys(self.at(name, source, spot) for spot in self.settings.spots))

    def is_given(self, name: str, source: str | None) -> bool:
        """Whether a parameter must be written."""
        setting = self._setting(name, source)
        of_others = isinstance(setting, dict) and any(key in self.recipe.sources for key in setting)
        return name in NEEDED or (setting is not None and not of_others)

    def write(self, name: str, source: str | None, number: int | None = None) -> Any:
        """A parameter as mergekit writes it; None, and a problem noted, where it cannot.

        Args:
            number: of the slice whose part is wanted; None for the whole model.
        """
        value = self._value(name, source)
        folded = [name]
        if name == "weight" and self.inverse:
            folded += ["density", "rescale"]
        own = [self._setting(one, source) for one in folded]
        try:
            if not any(map(is_filters, own)):
                setting = self.settings.by_role(value)
            elif len(folded) == 1 and name != "rescale":
                setting = self.settings.by_line(own[0])
            else:
                setting = self.settings.by_tensor(value)
        except ExportError as error:
            self.problems += [f"parameters.{name}: {problem}" for problem in error.problems]
            return None
        return setting if number is None else self.settings.cut(setting, number, value)

    def _value(self, name: str, source: str | None) -> Value:
        """Mergekit's value for the parameter at every tensor."""

        def value(spot: Spot) -> Scalar:
            own = self.at(name, source, spot)
            if name == "rescale":
                return own == "l1"
            if name == "weight" and self.inverse and self.at("rescale", None, spot) == "inverse":
                return float(own) / float(self.at("density", source, spot))
            return own

        return value

    def _setting(self, name: str, source: str | None) -> Any:
        setting = self.recipe.parameters.get(name)
        if source is not None and isinstance(setting, dict) and source in setting:
            return setting[source]
        return setting

    def needs_dialect(self) -> bool:
        """Whether the YAML would be read to other values without ``dialect: mergekit``."""
        given, marked = self.recipe.parameters, self.method.dialect
        if "rescale" in METHODS[self.method.name].shared and "l1" in self.every("rescale"):
            return True
        if given.get("axis") is not None or any(given.get(n) == v for n, v in marked.items()):
            return True
        voting = self.recipe.sources if self.method.elects else ()
        return any(float(w) < 0 for source in voting for w in self.every("weight", source))
