"""A worker in a process of its own, which answers with plain data only."""

from __future__ import annotations

import os
import socket
import traceback
from dataclasses import dataclass

from evomerge import errors
from evomerge.errors import EvomergeError, InputError, MachineError, SearchError
from evomerge.executors._inspection import Inspection, differences, inspect_machine
from evomerge.faults import cure_for_machine
from evomerge.types import Evaluation, Job
from evomerge.worker import Worker, WorkerSetup


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error on its way to the driver, which raises the same class again.

    Attributes:
        kind: a class of `evomerge.errors`.
        problems: its sentences.
        of_node: whether another node may do better.
    """

    kind: str
    problems: tuple[str, ...]
    of_node: bool = False

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """The refusal that stands for an error."""
        if isinstance(error, InputError):
            return cls(type(error).__name__, error.problems)
        if isinstance(error, EvomergeError):
            return cls(type(error).__name__, (str(error),))
        where = f"{socket.gethostname()}, process {os.getpid()}"
        kind = MachineError if cure_for_machine(error) else SearchError
        return cls(kind.__name__, (f"{where}: {traceback.format_exc().strip()}",))

    def error(self) -> EvomergeError:
        kind = getattr(errors, self.kind)
        several = issubclass(kind, InputError)
        error: EvomergeError = kind(self.problems if several else "\n".join(self.problems))
        return error

    @property
    def final(self) -> bool:
        """Whether another attempt would fail in the same way: the input is wrong, not a machine."""
        return not (self.of_node or self.of_machine or self.kind == SearchError.__name__)

    @property
    def of_machine(self) -> bool:
        """Whether a machine has failed, and no candidate."""
        return self.kind == MachineError.__name__


@dataclass(frozen=True, slots=True)
class RoomFound:
    """A worker found room: on which host, and on which of Ray's nodes."""

    host: str
    node: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's evaluation of a job.

    Attributes:
        exhausted: memory ran out, so that the process has to be replaced.
    """

    evaluation: Evaluation
    exhausted: bool


class RemoteWorker:
    """The object that runs in a worker's process; `open` starts its engine.

    Args:
        setup: of the run.
        expected: what the driver's machine has; this one must have the same.
    """

    def __init__(self, setup: WorkerSetup, expected: Inspection) -> None:
        self._setup = setup
        self._expected = expected
        self._worker: Worker | None = None

    def open(self) -> Refusal | None:
        """Start the engine; None where it is open."""
        host = socket.gethostname()
        try:
            actual = inspect_machine(self._setup)
            if problems := differences(self._expected, actual, f"node {host}"):
                return Refusal(InputError.__name__, tuple(problems), of_node=True)
            self._worker = Worker(self._setup)
        except Exception as error:
            return Refusal.of(error)
        return None

    def evaluate(self, job: Job) -> Answer | Refusal:
        assert self._worker is not None
        try:
            evaluation = self._worker.evaluate(job)
        except Exception as error:
            return Refusal.of(error)
        return Answer(evaluation, self._worker.exhausted)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None
