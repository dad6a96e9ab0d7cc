"""A run's database, which one process writes and any number read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Self

from sqlalchemy import Engine

from evomerge.errors import RunError, StoreError
from evomerge.store import candidates, database, evaluations, portions, runs
from evomerge.store.candidates import Steps
from evomerge.store.evaluations import Key, Spent
from evomerge.store.file_systems import is_local
from evomerge.store.lock import WriterLock
from evomerge.store.log import WriteAheadLog
from evomerge.store.reading import readable
from evomerge.store.records import Event, PortionRecord, RunRecord
from evomerge.store.transactions import Transactions
from evomerge.types import Candidate, Cells, Evaluation, PrefixGram, Split

_FILE_NAME = "run.sqlite"


class Store:
    """One run: its candidates, their evaluations, and the order in which it all happened.

    Made by `Store.create` or `Store.open`. What it promises:

    - Every ``record_...`` is one transaction: after a crash, a kill or a full disk it is there
      completely or not at all, and all that was recorded before is there. A power cut may take
      back the records of the last second, the newest first; on a network file system, none.
    - A candidate is asked for once and reported once. A recipe has one evaluation per split,
      fitness and engine settings: the first.
    - What was recorded reads back equal, floats to the last bit, mappings in their order. Two
      exceptions: a score of -0.0 reads 0.0, and what no database takes in an error's text is
      escaped.
    - All that is recorded within `together` is one transaction. A record that fails or is
      interrupted is undone alone, and what came before it stays; a kill, or a disk so full that
      nothing can be kept, takes all of it back.
    - Where its files are removed, replaced or overwritten under a writer, its next record fails,
      and all that was recorded is saved.
    - What differs from what was recorded, because the disk lost it or someone changed it, is known
      when the run is opened.
    - One writer per run folder and any number of readers beside it, who see whole transactions,
      and who may lack the right to write.
    - While it is open, a run is in ``run.sqlite`` and ``run.sqlite-wal`` together; on a network
      file system, in the first alone. Once closed, it is in the first alone everywhere, unless a
      reader holds on to the log or there is no room: then copy both.

    All methods raise `StoreError` when the database cannot be read or written. A store belongs to
    one thread and does not survive a fork.
    """

    def __init__(
        self, engine: Engine, log: WriteAheadLog, run_id: int, where: Path, resources: ExitStack
    ) -> None:
        self._engine = engine
        self._transactions = Transactions(engine, log, where)
        self._run_id = run_id
        self._where = where
        self._steps = Steps()
        run = self.run()
        self._fitness_digest = run.fitness_digest
        self._settings_digest = run.settings_digest
        self._resources = resources.pop_all()  # last: until then the caller ends them

    @staticmethod
    def path(folder: Path) -> Path:
        """The file of the run in a folder, which any SQLite program can read."""
        return folder / _FILE_NAME

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether there is a run in a folder."""
        return cls.path(folder).is_file()

    @classmethod
    def existing(cls, folder: Path) -> Path:
        """The file of the run in a folder.

        Raises:
            RunError: there is none.
        """
        if not cls.exists(folder):
            raise RunError(f"{folder}: has no run: there is no file {_FILE_NAME} in it.")
        return cls.path(folder)

    @classmethod
    def create(cls, folder: Path, run: RunRecord) -> Self:
        """A new run in a folder, which is made if need be. A kill leaves the whole run or none.

        Raises:
            RunError: the folder has a run, is in use by another process, or cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be made: {error.strerror}.") from None
        path = cls.path(folder)
        with ExitStack() as resources, database.database_errors(path):
            resources.callback(WriterLock(folder).release)
            if path.exists():
                raise RunError(f"{folder}: has a run already. Resume it, or choose another folder.")
            database.create_file(path, lambda connection: runs.add(connection, run))
            return cls._attach(path, resources, read_only=False)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Self:
        """The run in a folder.

        A writer brings the file of an older version up to date; a reader leaves it as it is.

        Raises:
            RunError: the folder has no run, or is in use by another process.
            StoreError: the file is damaged, or of a newer evomerge.
        """
        path = cls.existing(folder)
        with ExitStack() as resources, database.database_errors(path):
            database.refuse(database.damage_of_log(path), path)
            if read_only:
                path = readable(path, resources)
            else:
                resources.callback(WriterLock(folder).release)
            return cls._attach(path, resources, read_only=read_only)

    @classmethod
    def _attach(cls, path: Path, resources: ExitStack, *, read_only: bool) -> Self:
        """A store on an existing file, which takes ``resources`` over."""
        engine = database.connect(path, read_only=read_only)
        resources.callback(engine.dispose)
        database.prepare(engine, path)
        with engine.begin() as connection:
            run_id = runs.only_id(connection)
        log = WriteAheadLog(engine, path, wanted=not read_only and is_local(path.parent))
        resources.callback(log.end)
        return cls(engine, log, run_id, path, resources)

    def close(self) -> None:
        """Let go of the file and the lock. Closing twice is harmless."""
        with database.database_errors(self._where), self._resources:
            self._transactions.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def together(self) -> AbstractContextManager[None]:
        """Make one transaction of all that is recorded within, to wait for the disk once.

        Until its end, other programs read what was there before.
        """
        return self._transactions.together()

    def record_ask(self, candidate: Candidate, elapsed_seconds: float) -> None:
        """Add a candidate with its parents and recipe, and log that it was asked for.

        Raises:
            StoreError: its number is taken, or a parent is no candidate of this run.
        """
        with self._transactions.begin(records=True) as connection:
            candidates.add(connection, self._run_id, candidate, self._steps)
            runs.add_event(connection, self._run_id, "ask", candidate.number, elapsed_seconds)
            runs.mark_going_on(connection, self._run_id)

    def record_tell(
        self, number: int, evaluation: Evaluation, *, elapsed_seconds: float
    ) -> Evaluation:
        """Add the evaluation of a candidate's recipe on the search split, and log its report.

        Returns:
            The evaluation on record: ``evaluation``, or an earlier one of the same recipe. This
            one is reported to the optimizer, because a resumed run will report it.

        Raises:
            StoreError: no such candidate, reported before, or a score is NaN.
        """
        with self._transactions.begin(records=True) as connection:
            recipe_digest = candidates.recipe_digest(connection, self._run_id, number)
            if recipe_digest is None:
                raise StoreError(
                    f"{self._where}: candidate {number} was reported but never asked for."
                )
            runs.add_event(connection, self._run_id, "tell", number, elapsed_seconds)
            return evaluations.add(connection, self._key(recipe_digest, "search"), evaluation)

    def record_told(self, numbers: Sequence[int], *, elapsed_seconds: float) -> None:
        """Log that the optimizer was told of candidates that were asked some examples only.

        Args:
            numbers: of a cohort; they are logged in this order.

        Raises:
            StoreError: no such candidate, or reported before.
        """
        with self._transactions.begin(records=True) as connection:
            for number in numbers:
                runs.add_event(connection, self._run_id, "tell", number, elapsed_seconds)

    def record_portion(
        self, recipe_digest: str, evaluation: Evaluation, *, elapsed_seconds: float
    ) -> None:
        """Add the scores of a recipe on some of the search examples, none of them known before.

        Raises:
            StoreError: no candidate has this recipe, or a score is NaN.
        """
        with self._transactions.begin(records=True) as connection:
            portions.add(connection, self._run_id, recipe_digest, evaluation, elapsed_seconds)

    def record_evaluation(
        self, recipe_digest: str, split: Split, evaluation: Evaluation
    ) -> Evaluation:
        """Add the evaluation of a recipe without an event, e.g. a champion's held-out one.

        Returns:
            The evaluation on record: ``evaluation``, or an earlier one of the same recipe.

        Raises:
            StoreError: no candidate has this recipe, or a score is NaN.
        """
        with self._transactions.begin(records=True) as connection:
            return evaluations.add(connection, self._key(recipe_digest, split), evaluation)

    def record_grams(self, measured: Sequence[PrefixGram]) -> None:
        """Keep what the space measured of the sources; at least one.

        Raises:
            StoreError: one of them is on record already.
        """
        with self._transactions.begin(records=True) as connection:
            runs.add_grams(connection, self._run_id, measured)

    def finish(self) -> None:
        """Mark the run as finished now; a later `record_ask` takes the mark away."""
        with self._transactions.begin(records=True) as connection:
            runs.mark_finished(connection, self._run_id)

    def run(self) -> RunRecord:
        """What the run was started with."""
        with self._transactions.begin() as connection:
            return runs.load(connection, self._run_id)

    def candidates(self) -> list[Candidate]:
        """All candidates, by number."""
        with self._transactions.begin() as connection:
            return candidates.load(connection, self._run_id, self._steps)

    def events(self) -> list[Event]:
        """The run's history, first step to last."""
        with self._transactions.begin() as connection:
            return runs.load_events(connection, self._run_id)

    def grams(self) -> list[PrefixGram]:
        """All measured inner products of the sources, by position."""
        with self._transactions.begin() as connection:
            return runs.load_grams(connection, self._run_id)

    def elapsed_seconds(self) -> float:
        """Search time spent up to the last record; 0 before the first."""
        with self._transactions.begin() as connection:
            of_events = runs.elapsed_seconds(connection, self._run_id)
            return max(of_events, portions.elapsed_seconds(connection, self._run_id))

    def evaluation(self, recipe_digest: str, split: Split = "search") -> Evaluation | None:
        """A recipe's evaluation under this run's fitness and engine settings; None without one."""
        with self._transactions.begin() as connection:
            return evaluations.find(connection, self._key(recipe_digest, split))

    def cells(self, recipe_digest: str, elapsed_seconds: float = math.inf) -> Cells:
        """The scores of a recipe on what it was asked in portions until so much search time."""
        with self._transactions.begin() as connection:
            found = portions.load(connection, self._run_id, recipe_digest)
            return portions.union(
                one.cells for one in found if one.elapsed_seconds <= elapsed_seconds
            )

    def tokens(self, elapsed_seconds: float) -> int:
        """How many tokens were generated in answers to portions until so much search time."""
        with self._transactions.begin() as connection:
            return portions.tokens(connection, self._run_id, elapsed_seconds)

    def portions(self) -> Iterator[PortionRecord]:
        """What every recipe scored that was asked some of the examples, the oldest first."""
        with self._transactions.begin() as connection:
            yield from portions.load(connection, self._run_id)

    def evaluations(self, split: Split) -> Iterator[tuple[str, Evaluation]]:
        """The digest and evaluation of every recipe that has one, in a single query."""
        with self._transactions.begin() as connection:
            digests = self._fitness_digest, self._settings_digest
            yield from evaluations.load(connection, split, *digests)

    def spent(self) -> list[Spent]:
        """How many evaluations each worker did, and what it spent its time on."""
        with self._transactions.begin() as connection:
            return evaluations.spent(connection, self._fitness_digest, self._settings_digest)

    def _key(self, recipe_digest: str, split: Split) -> Key:
        return Key(recipe_digest, self._fitness_digest, split, self._settings_digest)
