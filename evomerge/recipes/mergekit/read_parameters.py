"""The parameters of a recipe from those of a mergekit YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import shown
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Scalar
from evomerge.recipes._settings import canonical
from evomerge.recipes.mergekit.filters import FILTERS, TYPICAL
from evomerge.recipes.mergekit.methods import NEEDED, RESCALED, MergeMethod
from evomerge.recipes.mergekit.read_models import OutputSlice, Source, title_of
from evomerge.recipes.mergekit.read_settings import FilterLine, Parameters, Problems, read_lines
from evomerge.recipes.mergekit.read_slices import SliceLines, joined
from evomerge.recipes.places import Places

_HINTS = ("int8_mask",)  # saves memory in mergekit, with the same result
_ROW, _FLAT = "nuslerp_row_wise", "nuslerp_flatten"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterReader:
    """Reads the parameters of one merge.

    Attributes:
        slices: of the output, with their sources.
        sources: of the recipe.
        shared: the ``parameters`` of the whole YAML, the innermost first.
        layers: the number of blocks of the model, asked for if there is a gradient.
        places: of its tensors, asked for if slices set a parameter differently.
        dialect: whether mergekit's numbers are wanted, faults included.
    """

    method: MergeMethod
    slices: Sequence[OutputSlice]
    sources: Sequence[Source]
    shared: Sequence[Parameters]
    layers: Callable[[], int]
    places: Callable[[], Places]
    dialect: bool
    problems: Problems

    def read(self, relative: bool) -> dict[str, Any]:
        """Parameter to setting, without defaults that mergekit and the operator share.

        Args:
            relative: whether mergekit merges task vectors.
        """
        self._check_names()
        settings: dict[str, Any] = {}
        for name, default in self.method.per_source.items():
            settings[name] = self._by_source(name, default)
        for name, default in self.method.shared.items():
            if name != "rescale":
                settings[name] = self._setting(self.method.theirs(name), default)
        settings = {name: one for name, one in settings.items() if one is not None and one != {}}
        self._clamp(settings)
        self._rescale(settings)
        if self.method.base == "optional":
            settings["space"] = "task_vector" if relative else "weights"
        if self.method.name == "nuslerp":
            self._axis(settings)
        if self.method.name == "multislerp" and self._flat("eps", 1e-8) != 1e-8:
            self.problems.add("parameters.eps", "evomerge knows 1e-8 alone. Remove this key")
        if self.dialect:
            settings |= self.method.dialect
            self._elect(settings)
        return settings

    # Where values come from

    def _by_source(self, name: str, default: Scalar) -> dict[str, Any]:
        theirs = self.method.theirs(name)
        settings = {one.name: self._setting(theirs, default, one) for one in self.sources}
        return {source: setting for source, setting in settings.items() if setting is not None}

    def _flat(self, theirs: str, default: Scalar) -> Scalar:
        """The value of a parameter that may not differ by tensor."""
        setting = self._setting(theirs, default)
        if setting is None:
            return default
        setting = canonical(setting, theirs, ())
        if isinstance(setting, (dict, list)):
            self.problems.add(
                f"parameters.{theirs}", "evomerge has one value for all tensors. Give one"
            )
            return default
        return setting if isinstance(setting, (bool, float)) else default

    def _setting(self, theirs: str, default: Scalar, source: Source | None = None) -> Any:
        """The setting of one source, or of all; None where the YAML gives none, or a wrong one."""
        rows = self._rows(theirs, default, source)
        title = theirs if source is None else f"{theirs} for {title_of(source.model)}"
        needed = theirs in NEEDED
        if not any(row.lines for row in rows):
            if needed:
                self.problems.add("parameters", f"{title}: no value, and mergekit requires one")
            return None
        complete = []
        for row in rows:
            lines = row.lines
            if lines is not None and (lacking := _lacking(lines)):
                if needed:
                    self.problems.add("parameters", f"{title}: no value for {lacking}")
                    return None
                lines = (*lines, FilterLine(None, default))
            complete.append(row._replace(lines=lines))
        try:
            return joined(complete, self.layers, self.places)
        except ValueError as error:
            self.problems.add("parameters", f"{title}: {error}")
            return None

    def _rows(self, theirs: str, default: Scalar, source: Source | None) -> list[SliceLines]:
        rows: list[SliceLines] = []
        start = 0
        for slice_ in self.slices:
            scopes, shift = [slice_.parameters, *self.shared], 0
            own = None if source is None else source.within(slice_)
            if own is not None:
                scopes.insert(0, own.parameters)
                shift = (own.start or 0) - start
            takes_part = source is None or own is not None
            lines = read_lines(theirs, default, scopes, self.problems) if takes_part else None
            rows.append(SliceLines(slice_.length, lines, shift))
            start += slice_.length or 0
        return rows

    # Parameters that mean something else in mergekit

    def _clamp(self, settings: dict[str, Any]) -> None:
        """Bring fractions into [0, 1], which is what mergekit takes them for."""
        for name in ("density", "select_topk"):
            if _any(settings.get(name), lambda value: not 0 <= value <= 1):
                settings[name] = _map(settings[name], lambda value: min(max(value, 0.0), 1.0))
                self.problems.note(
                    f"parameters.{name}", "below 0 mergekit takes nothing, above 1 everything."
                )

    def _rescale(self, settings: dict[str, Any]) -> None:
        """Add ``rescale``: in mergekit it restores the sum of magnitudes, unlike in the papers."""
        if "rescale" in self.method.shared:
            setting = self._setting("rescale", True)
            restored = "l1" if self.dialect else "inverse"
            if setting is not None or self.dialect:
                settings["rescale"] = _map(
                    True if setting is None else setting, lambda on: restored if on else "none"
                )
        elif self.method.name in RESCALED:
            setting = self._setting("rescale", False)
            if setting is None or not _any(setting, bool) or "density" not in settings:
                return
            settings["sparsify_density"] = settings.pop("density")
            settings["sparsify_method"] = RESCALED[self.method.name]
            settings["sparsify_rescale"] = _map(setting, lambda on: "l1" if on else "none")
            if "gamma" in settings:
                settings["sparsify_gamma"] = settings.pop("gamma")

    def _axis(self, settings: dict[str, Any]) -> None:
        """Add ``axis``, from a flag that does the reverse of what mergekit's documentation says."""
        if not self._flat(_FLAT, True):
            settings["axis"] = "row" if self._flat(_ROW, False) is not self.dialect else "col"

    def _elect(self, settings: dict[str, Any]) -> None:
        """Let sources that are subtracted vote, as mergekit does."""
        if not self.method.elects or not _any(settings.get("weight"), lambda w: w < 0):
            return
        settings["negative"] = "elect"
        if _any(settings.get("normalize", self.method.shared["normalize"]), bool):
            self.problems.add(
                "parameters.weight",
                "mergekit divides by a sum in which negative weights lose their sign, which "
                "evomerge does not repeat. Set normalize: false, or remove dialect",
            )

    # Unknown parameters

    def _check_names(self) -> None:
        """Report parameters that mergekit does not read where they stand."""
        special = {"nuslerp": (_ROW, _FLAT), "multislerp": ("eps",)}.get(self.method.name, ())
        rescale = ("rescale",) if self.method.name in RESCALED else ()
        ours = [self.method.theirs(name) for name in self.method.defaults]
        everything = [*ours, *special, *rescale, *self.method.unused, *_HINTS]
        own = [self.method.theirs(n) for n in self.method.per_source]
        own += [*_HINTS, *(name for name in self.method.unused if name == "density")]
        for scope in (*(slice_.parameters for slice_ in self.slices), *self.shared):
            self._check_scope(*scope, everything, everything)
        for slice_ in self.slices:
            for one in slice_.models:
                if any(one is other for other in slice_.sources):
                    self._check_scope(*one.parameters, own, everything)
                elif isinstance(one.parameters[1], dict) and one.parameters[1]:
                    self.problems.note(
                        one.parameters[0], f"{self.method.name} has none for the base model."
                    )

    def _check_scope(
        self, path: str, scope: Any, known: Sequence[str], elsewhere: Sequence[str]
    ) -> None:
        if scope is None:
            return
        if not isinstance(scope, dict):
            self.problems.add(path, f"expected keys and values, got {shown(scope)}")
            return
        for key in scope:
            if key in self.method.unused:
                self.problems.note(f"{path}.{key}", f"mergekit's {self.method.name} ignores it.")
            elif key not in known and key in elsewhere:
                self.problems.note(
                    f"{path}.{key}",
                    "mergekit reads this from the parameters of all models alone, and ignores it "
                    "here. Move it there if it is meant.",
                )
            elif key not in known:
                near = did_you_mean(str(key), known)
                text = f"mergekit's {self.method.name} has no such parameter, and ignores it."
                self.problems.note(
                    f"{path}.{key}", text + (near if near.startswith(" Did") else "")
                )


def _lacking(lines: Sequence[FilterLine]) -> str:
    """The part of a sentence that names tensors without a value; empty where there are none."""
    if any(line.filter is None for line in lines):
        return ""
    if any(line.filter not in FILTERS for line in lines):
        return "the tensors that no filter selects"
    missing = (role for role, n in TYPICAL.items() if not any(line.fits(n) for line in lines))
    return ", ".join(missing)


def _map(setting: Any, change: Callable[[Any], Scalar]) -> Any:
    """The setting with every value in it replaced."""
    if isinstance(setting, dict):
        return {k: v if k == "filter" else _map(v, change) for k, v in setting.items()}
    if isinstance(setting, list):
        return [_map(value, change) for value in setting]
    return change(setting)


def _any(setting: Any, test: Callable[[Any], bool]) -> bool:
    """Whether some value in a setting passes the test."""
    if isinstance(setting, dict):
        return any(_any(value, test) for key, value in setting.items() if key != "filter")
    if isinstance(setting, list):
        return any(_any(value, test) for value in setting)
    return setting is not None and test(setting)
