"""The one reader of a run: `show`, `export`, `lineage` and the end of a search go through it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from evomerge.analysis.choice import Choice
from evomerge.analysis.racing import RacingSummary
from evomerge.analysis.rows import Row, read_rows
from evomerge.analysis.starts import chosen_starts
from evomerge.analysis.throughput import Throughput, throughput
from evomerge.config.schema import SearchFile
from evomerge.errors import ConfigError, RunError, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Recipe
from evomerge.recipes.mergekit import to_mergekit
from evomerge.recipes.scored import FILES, Scored, references
from evomerge.recipes.yaml import to_yaml
from evomerge.store import RunRecord, Store
from evomerge.store.records import recorded_files
from evomerge.types import Candidate
from evomerge.weights.files.model_files import ADAPTER_CONFIG, WEIGHTS
from evomerge.weights.library import Library
from evomerge.weights.outline import outline
from evomerge.yaml_files import parse_yaml

if TYPE_CHECKING:
    from evomerge.analysis.ancestry import Ancestry
    from evomerge.analysis.front import RunFront

Which = int | str  # a candidate: its number, or "best"
Format = Literal["evomerge", "mergekit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as it stood when it was opened, finished or not; its models need not exist any more.

    Attributes:
        folder: where it is kept.
        record: what it was started with.
        file: the keys of its search YAML, with all presets inline.
        elapsed_seconds: search time so far, over all sessions.
        rows: every candidate by number, with its scores.
        best: the searched candidate that the search prefers; None before one is scored.
        choice: among how many it was chosen, and whether it is better than the baselines.
        throughput: how fast it went, and what its workers did.
        racing: what racing saved; None in a run that does not race.
        starts: stage to the point that its search started from, of those that were tried.
    """

    folder: Path
    record: RunRecord
    file: SearchFile
    elapsed_seconds: float
    rows: tuple[Row, ...]
    best: Row | None
    choice: Choice | None
    throughput: Throughput
    racing: RacingSummary | None
    starts: Mapping[str, Row]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the run in a folder, also while it goes on.

        Raises:
            RunError: there is none.
            StoreError: its file is damaged, or of a newer evomerge.
        """
        folder = Path(folder)
        with Store.open(folder, read_only=True) as store:
            record = store.run()
            file = SearchFile.model_validate(parse_yaml(record.search_yaml, str(folder)))
            events = store.events()
            elapsed_seconds = store.elapsed_seconds()
            reported = {event.number for event in events if event.kind == "tell"}
            finished = record.finished_utc is not None
            rows, best, choice, racing = read_rows(store, file.fitness, events, finished=finished)
            return cls(
                folder=folder,
                record=record,
                file=file,
                elapsed_seconds=elapsed_seconds,
                rows=rows,
                best=best,
                choice=choice,
                throughput=throughput(elapsed_seconds, len(reported), store.spent()),
                racing=racing,
                starts=chosen_starts(file, rows, events),
            )

    @property
    def baselines(self) -> tuple[Row, ...]:
        """The rows of the baselines, with which the search is compared."""
        return tuple(row for row in self.rows if row.candidate.kind == "baseline")

    @property
    def candidates(self) -> tuple[Row, ...]:
        """The rows of the candidates that the search made, baselines left out."""
        return tuple(row for row in self.rows if row.candidate.kind != "baseline")

    @property
    def search_examples(self) -> int | None:
        """How many examples there are to search on; None before a baseline was asked them."""
        return next((row.search.examples for row in self.baselines if row.search), None)

    def row(self, candidate: Which = "best") -> Row:
        """A candidate with its scores.

        Args:
            candidate: its number, or ``best``.

        Raises:
            RunError: there is no such candidate, or nothing is scored yet.
        """
        if candidate == "best":
            if self.best is None:
                raise RunError(f"{self.folder}: no candidate has been scored yet")
            return self.best
        rows = {str(row.number): row for row in self.rows}
        if str(candidate) not in rows:
            raise RunError(
                f"{self.folder}: no candidate {candidate}. There are 0 to {len(rows) - 1}."
            )
        return rows[str(candidate)]

    def candidate(self, candidate: Which = "best") -> Candidate:
        """A candidate: genes, parents and recipe; see `row`."""
        return self.row(candidate).candidate

    def recipe(self, candidate: Which = "best") -> Recipe:
        """A candidate's recipe; see `row`. `build` makes its model."""
        return self.row(candidate).recipe

    def scored(self, candidate: Which = "best") -> Scored:
        """A candidate's recipe with the files that its scores are of; see `row`.

        A run of 0.2 has the digests of weights alone.
        """
        recipe, files = self.recipe(candidate), recorded_files(self.record)
        known = {self.file.base: "base"}
        known |= {model: f"sources.{name}" for name, model in self.file.sources.items()}
        known |= {folder: f"statistics.{name}" for name, folder in self.file.statistics.items()}
        found: dict[str, Mapping[str, str]] = {}
        for key, reference in references(recipe):
            of = files.get(known.get(reference, ""), {})
            # the weights of an adapter are those on its base, which may be another one here
            whole = ADAPTER_CONFIG not in of
            found[key] = {name: one for name, one in of.items() if whole or name != WEIGHTS}
        cure = (
            "Make it as it was again. To build from what is there now, export the recipe and "
            f"remove its key {FILES}."
        )
        return Scored(recipe, {key: of for key, of in found.items() if of}, cure)

    def build(self, out: str | os.PathLike[str], candidate: Which = "best") -> Path:
        """Build a candidate's model in a new folder, from the files that its scores are of.

        Args:
            out: must not exist, or be an empty folder.

        Raises:
            CheckpointError: models that are gone, or whose files have changed since.
            InputError, OutputError, CandidateError, SourceChangedError: as `evomerge.build`.
        """
        from evomerge.weights.build import build  # torch, which no other reader needs

        return build(self.scored(candidate), Path(out), title=self.record.name)

    def front(self) -> RunFront:
        """The models of which none is as good as another on every objective, best fitness first.

        Of all that were asked all search examples, baselines included; by the objectives of the
        fitness, or else by its tasks.
        """
        from evomerge.analysis.front import read_front  # numpy, which no other reader needs

        with Store.open(self.folder, read_only=True) as store:
            return read_front(store, self.file.fitness, self.record.seed)

    def choose(self, weights: Mapping[str, float] = {}, at: Sequence[str] = ()) -> int:
        """The number of the candidate that is best by other weights, or within bounds.

        Args:
            weights: objective to weight: the best sum of its numbers times these, each on its own
                scale, minimized ones subtracted. Without any, the best fitness.
            at: what must hold, e.g. ``maths>=0.6`` or ``layers<=20``, of all models that were
                asked everything; without it the choice is from the front.

        Raises:
            ConfigError: objectives that there are not, or bounds that cannot be read.
            RunError: no model is within the bounds, or the front is empty.
        """
        from evomerge.analysis.front import choose, parse_bound

        bounds = [parse_bound(text) for text in at]
        with Store.open(self.folder, read_only=True) as store:
            return choose(store, self.file.fitness, self.record.seed, weights, bounds)

    def export(self, candidate: Which = "best", format: Format = "evomerge") -> str:
        """A candidate's recipe as YAML text; see `row`.

        Raises:
            ExportError: mergekit cannot express the recipe.
            ConfigError: neither of the two formats.
        """
        if format not in (formats := get_args(Format)):
            raise ConfigError(f"format: no {shown(format)}.{did_you_mean(format, formats)}")
        row, library = self.row(candidate), Library()
        if format == "evomerge":
            files = self.scored(candidate).files
            whole = any(len(of) > 1 for of in files.values())
            return to_yaml(row.recipe, files if whole else None)
        if row.status != "done":
            library.plan(row.recipe)  # says why it cannot be merged; what was scored could be
        return to_mergekit(row.recipe, *outline(row.recipe, library.models(row.recipe)))

    def ancestry(self, candidate: Which = "best") -> Ancestry:
        """A candidate's ancestors and their shares of its weights; see `row`."""
        from evomerge.analysis.ancestry import ancestry  # numpy, which no other reader needs

        number = self.row(candidate).number
        values = {row.number: row.search.value if row.search else None for row in self.rows}
        return ancestry([row.candidate for row in self.rows], number, values)

    def as_json(self) -> dict[str, Any]:
        """The run as ``--json`` prints it."""
        return {
            "run": {
                "name": self.record.name,
                "folder": str(self.folder),
                "seed": self.record.seed,
                "created_utc": self.record.created_utc,
                "finished_utc": self.record.finished_utc,
                "elapsed_seconds": self.elapsed_seconds,
                "versions": dict(self.record.versions),
                "host": self.record.host,
            },
            "baselines": [row.as_json() for row in self.baselines],
            "best": self.best.as_json() if self.best else None,
            "choice": None if self.choice is None else asdict(self.choice),
            "candidates": [row.as_json() for row in self.candidates],
            "starts": {stage: row.number for stage, row in self.starts.items()},
            "racing": None if self.racing is None else asdict(self.racing),
            "usage": asdict(self.throughput),
        }
