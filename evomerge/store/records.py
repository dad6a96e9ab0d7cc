"""What a store holds besides the shared types, and how times and JSON are written."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from evomerge.errors import Problem
from evomerge.types import Cells
from evomerge.version import __version__


def utc_now() -> str:
    """ISO 8601 in UTC with milliseconds: text that sorts in time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Event(NamedTuple):
    """One step of a run's history: the optimizer was asked for a candidate, or told its result.

    Attributes:
        number: the candidate's.
        elapsed_seconds: search time spent until then, over all sessions of the run.
    """

    kind: Literal["ask", "tell"]
    number: int
    elapsed_seconds: float


class PortionRecord(NamedTuple):
    """What a recipe scored on some of the search examples, asked at once.

    Attributes:
        cells: its scores, none of them known before.
        generated_tokens: in its answers.
        elapsed_seconds: search time spent until they had come.
    """

    recipe_digest: str
    cells: Cells
    generated_tokens: int
    elapsed_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a run was started with, and when it ended.

    Attributes:
        name: of the search.
        search_yaml: its YAML with all presets inline, so that editing one changes no past run.
        fitness_digest: of all that decides what is scored and how.
        settings_digest: of the engine settings that can change a score.
        versions: of ``evomerge``, ``python`` and each library that can change a score, by name.
        sources_fingerprints: by the key of a search that names them (``sources.math``), file to
            digest of all that scores depend on. Up to 0.3.0 the digest of a source's weights, by
            its name.
        host: the machine that started the run.
        finished_utc: when the search ended; None before that, and again once it is resumed.
    """

    name: str
    search_yaml: str
    seed: int
    fitness_digest: str
    settings_digest: str
    versions: Mapping[str, str] = field(default_factory=dict)
    sources_fingerprints: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    host: str = field(default_factory=socket.gethostname)
    created_utc: str = field(default_factory=utc_now)
    finished_utc: str | None = None


def recorded_files(record: RunRecord) -> dict[str, Mapping[str, str]]:
    """`RunRecord.sources_fingerprints` as it is now, of a run of any version."""
    return {
        key if isinstance(of, Mapping) or key == "base" else f"sources.{key}": (
            of if isinstance(of, Mapping) else {"weights": of}
        )
        for key, of in record.sources_fingerprints.items()
    }


def version_problem(record: RunRecord, folder: str) -> Problem | None:
    """Why this version cannot go on with a run that another one began; None for its own."""
    made_by = record.versions.get("evomerge", "an unknown version")
    if made_by == __version__:
        return None
    text = f"evomerge {made_by} made this run, in which recipes may mean other models than in"
    cure = f"Go on with evomerge {made_by}, or begin a new run."
    return Problem((), f"{text} evomerge {__version__}.", cure, file=folder)


def to_json(content: Any) -> str:
    """JSON text that a person can read; NaN and infinity raise ValueError."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False)
