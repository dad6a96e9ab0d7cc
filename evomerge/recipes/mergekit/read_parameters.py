"""The parameters of a recipe from those of a mergekit YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import ROLES, Scalar
from evomerge.recipes._settings import canonical
from evomerge.recipes.mergekit.filters import FILTERS
from evomerge.recipes.mergekit.methods import RESCALED, Method
from evomerge.recipes.mergekit.read_entries import Model, Part, Run, shown
from evomerge.recipes.mergekit.read_settings import Line, Problem, Scope, read_lines
from evomerge.recipes.mergekit.spread import Spread, Stretch

_HINTS = ("int8_mask",)  # how much memory mergekit takes; the result is the same
_TARGETS = frozenset(ROLES) - {"other"} | {"final_norm"}
_ROW, _FLAT = "nuslerp_row_wise", "nuslerp_flatten"

Source = tuple[str, Model, int]  # name, model, number of the copy


@dataclass(frozen=True, slots=True)
class Parameters:
    """Reads the parameters of one merge.

    Args:
        name: of the merge method.
        runs: the slices.
        chosen: of each slice, the parts that are sources.
        shared: the scopes of the whole YAML, the innermost first.
        dialect: whether mergekit's numbers are wanted, faults included.
        problem: takes what is wrong.
    """

    name: str
    method: Method
    runs: Sequence[Run]
    chosen: Sequence[Sequence[Part]]
    sources: Sequence[Source]
    shared: Sequence[Scope]
    spread: Spread
    dialect: bool
    problem: Problem

    def read(self, relative: bool) -> dict[str, Any]:
        """Parameter to setting; what mergekit does by default is left out where we do the same.

        Args:
            relative: whether mergekit merges task vectors.
        """
        self._check_names()
        found: dict[str, Any] = {}
        for name, default in self.method.per_source.items():
            self._put(found, name, self._by_source(name, default))
        for name, default in self.method.shared.items():
            if name in self.method.spread:
                self._put(found, name, self._agreed(name, default))
            elif name != "rescale":
                self._put(found, name, self._shared(self.method.theirs(name), default, name))
        self._rescale(found)
        if self.method.base == "optional":
            found["space"] = "task_vector" if relative else "weights"
        if self.name == "nuslerp":
            self._axis(found)
        if self.name == "multislerp" and self._flat("eps", 1e-8) != 1e-8:
            self.problem("parameters.eps", "evomerge knows 1e-8 alone. Remove this key")
        if self.dialect:
            found |= self.method.dialect
            self._elect(found)
        return found

    def _put(self, found: dict[str, Any], name: str, setting: Any) -> None:
        if setting is not None and setting != {}:
            found[name] = setting

    # Where values come from

    def _by_source(self, name: str, default: Scalar) -> dict[str, Any]:
        settings = {
            source: self._setting(
                [
                    self._stretch(run, self._part(parts, model, copy), start, name, default)
                    for (run, parts), start in zip(self._pairs(), self._starts(), strict=True)
                ],
                name,
                default,
                f"{name} for {shown(model)}",
            )
            for source, model, copy in self.sources
        }
        return {source: setting for source, setting in settings.items() if setting is not None}

    def _shared(self, theirs: str, default: Scalar, name: str) -> Any:
        stretches = [
            Stretch(run.length, read_lines(theirs, default, self._scopes(run), self.problem))
            for run in self.runs
        ]
        return self._setting(stretches, name, default, theirs)

    def _agreed(self, name: str, default: Scalar) -> Any:
        """Of a parameter that every model has in mergekit, and evomerge once."""
        settings = self._by_source(name, default)
        names = {source for source, _, _ in self.sources}
        missing = dict.fromkeys(names - set(settings), default) if settings else {}
        values = [canonical(s, name, ()) for s in {**missing, **settings}.values()]
        if any(value != values[0] for value in values):
            self.problem(f"parameters.{name}", "evomerge has one value for all models. Give one")
        return values[0] if values else None

    def _flat(self, theirs: str, default: Scalar) -> Scalar:
        """Of a parameter that evomerge has once for all tensors."""
        setting = self._shared(theirs, default, theirs)
        if setting is None:
            return default
        try:
            setting = canonical(setting, theirs, ())
        except ValueError:
            return default  # told already
        if isinstance(setting, (dict, list)):
            self.problem(f"parameters.{theirs}", "evomerge has one value for all tensors. Give one")
            return default
        return setting if isinstance(setting, (bool, float)) else default

    def _setting(self, stretches: Sequence[Stretch], name: str, default: Scalar, title: str) -> Any:
        """None where nothing is given, or where that is wrong."""
        if not any(s.lines for s in stretches):
            if name in self.method.needed:
                self.problem("parameters", f"{title}: no value. mergekit demands one")
            return None
        complete = []
        for stretch in stretches:
            if stretch.lines is None or any(line.filter is None for line in stretch.lines):
                complete.append(stretch)
            elif name in self.method.needed and (lacking := _lacking(stretch.lines)):
                self.problem("parameters", f"{title}: no value for {lacking}")
                return None
            else:
                lines = stretch.lines if not _lacking(stretch.lines) else (
                    *stretch.lines, Line(None, default)
                )  # fmt: skip
                complete.append(stretch._replace(lines=lines))
        try:
            return self.spread.setting(complete)
        except ValueError as error:
            self.problem("parameters", f"{title}: {error}")
            return None

    def _stretch(
        self, run: Run, part: Part | None, start: int, name: str, default: Scalar
    ) -> Stretch:
        if part is None:
            return Stretch(run.length, None)
        scopes = [part.scope, *self._scopes(run)]
        lines = read_lines(self.method.theirs(name), default, scopes, self.problem)
        return Stretch(run.length, lines, (part.start or 0) - start)

    def _pairs(self) -> Iterator[tuple[Run, Sequence[Part]]]:
        return zip(self.runs, self.chosen, strict=True)

    def _starts(self) -> Iterator[int]:
        start = 0
        for run in self.runs:
            yield start
            start += run.length or 0

    def _part(self, parts: Sequence[Part], model: Model, copy: int) -> Part | None:
        return next((p for p in parts if p.model == model and p.copy == copy), None)

    def _scopes(self, run: Run) -> list[Scope]:
        return [run.scope, *self.shared]

    # What is not called the same

    def _rescale(self, found: dict[str, Any]) -> None:
        """``rescale: true`` restores the sum of magnitudes in mergekit, not in the papers."""
        if "rescale" in self.method.shared:
            setting = self._shared("rescale", True, "rescale")
            restored = "l1" if self.dialect else "inverse"
            if setting is not None or self.dialect:
                found["rescale"] = _map(
                    True if setting is None else setting, lambda on: restored if on else "none"
                )
        elif self.name in RESCALED:
            setting = self._shared("rescale", False, "rescale")
            if setting is None or not _any(setting, bool) or "density" not in found:
                return
            found["sparsify_density"] = found.pop("density")
            found["sparsify_method"] = RESCALED[self.name]
            found["sparsify_rescale"] = _map(setting, lambda on: "l1" if on else "none")
            if "gamma" in found:
                found["sparsify_gamma"] = found.pop("gamma")

    def _axis(self, found: dict[str, Any]) -> None:
        """Undo that mergekit's flag does the reverse of what its documentation says."""
        if not self._flat(_FLAT, True):
            found["axis"] = "row" if self._flat(_ROW, False) is not self.dialect else "col"

    def _elect(self, found: dict[str, Any]) -> None:
        """Let sources that are subtracted vote, as mergekit does."""
        if not self.method.elects or not _any(found.get("weight"), lambda w: w < 0):
            return
        found["negative"] = "elect"
        if _any(found.get("normalize", self.method.shared["normalize"]), bool):
            self.problem(
                "parameters.weight",
                "mergekit divides by a sum in which negative weights lose their sign, which "
                "evomerge does not repeat. Set normalize: false, or remove dialect",
            )

    # What is not known

    def _check_names(self) -> None:
        special = {"nuslerp": (_ROW, _FLAT), "multislerp": ("eps",)}.get(self.name, ())
        rescale = ("rescale",) if self.name in RESCALED else ()
        ours = [self.method.theirs(name) for name in self.method.defaults]
        everything = [*ours, *special, *rescale, *self.method.unused, *_HINTS]
        own = [self.method.theirs(n) for n in (*self.method.per_source, *self.method.spread)]
        own += [*_HINTS, *(name for name in self.method.unused if name == "density")]
        for path, scope in (*(run.scope for run in self.runs), *self.shared):
            self._check_scope(path, scope, everything, everything)
        for part in (part for parts in self.chosen for part in parts):
            self._check_scope(*part.scope, own, everything)

    def _check_scope(
        self, path: str, scope: Any, known: Sequence[str], elsewhere: Sequence[str]
    ) -> None:
        if scope is None:
            return
        if not isinstance(scope, dict):
            self.problem(path, f"expected keys and values, got {scope!r}")
            return
        for key, value in scope.items():
            if key in known or (key == "rescale" and value is False):
                continue
            if key in elsewhere:
                self.problem(f"{path}.{key}", "mergekit reads this from the parameters of all "
                                              "models alone. Move it there.")  # fmt: skip
            else:
                self.problem(
                    f"{path}.{key}",
                    f"mergekit's {self.name} has no such parameter.{did_you_mean(str(key), known)}",
                )


def _lacking(lines: Sequence[Line]) -> str:
    """Which tensors no line is for; empty where there are none."""
    if any(line.filter not in FILTERS for line in lines):
        return "the tensors that no filter selects"
    chosen = frozenset[str]().union(*(FILTERS[line.filter or ""] for line in lines))
    return ", ".join(role for role in (*ROLES, "final_norm") if role in _TARGETS - chosen)


def _map(setting: Any, change: Callable[[Any], Scalar]) -> Any:
    """A setting with every value in it changed."""
    if isinstance(setting, dict):
        return {k: v if k == "filter" else _map(v, change) for k, v in setting.items()}
    if isinstance(setting, list):
        return [_map(value, change) for value in setting]
    return change(setting)


def _any(setting: Any, test: Callable[[Any], bool]) -> bool:
    """Whether a setting has such a value somewhere."""
    if isinstance(setting, dict):
        return any(_any(value, test) for key, value in setting.items() if key != "filter")
    if isinstance(setting, list):
        return any(_any(value, test) for value in setting)
    return setting is not None and test(setting)
