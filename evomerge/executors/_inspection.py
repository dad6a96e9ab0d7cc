"""What a machine has: the versions of what computes scores, and every source file.

Scores are comparable only where these are equal, so every node is asked before the first candidate.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evomerge.engines import Engine
from evomerge.errors import InputError
from evomerge.plugins import registry
from evomerge.version import versions
from evomerge.weights.library import Library
from evomerge.worker import WorkerSetup

LIBRARIES = ("torch", "transformers", "lm_eval", "vllm", "tokenizers")
# Beside the weights; of them a tokenizer or a template changes every score.
_TEXTS = {".json", ".jinja", ".txt", ".model", ".py"}
_FITNESS = "fitness"


class Stored(NamedTuple):
    """Something on disk: where this machine has it, and the digest of what is in it."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """One machine, as far as it changes scores; plain data.

    Attributes:
        host: its name.
        versions: library to version.
        stored: by a name that is the same everywhere, weights and files of the models.
        problems: what cannot be opened there.
    """

    host: str
    versions: Mapping[str, str]
    stored: Mapping[str, Stored]
    problems: tuple[str, ...] = ()


def inspect_machine(setup: WorkerSetup) -> Inspection:
    """What this machine has of a run; of weights, headers and sampled blocks are read."""
    host, found = socket.gethostname(), versions(*LIBRARIES)
    try:
        return Inspection(host, found, _stored(setup))
    except InputError as error:
        return Inspection(host, found, {}, error.problems)
    except OSError as error:
        return Inspection(host, found, {}, (str(error),))


def differences(expected: Inspection, found: Inspection, where: str) -> list[str]:
    """A sentence for everything that a machine has otherwise than expected.

    Args:
        where: names the machine, e.g. ``node 10.0.0.7``.
    """
    problems = [f"{where}: {problem}" for problem in found.problems]
    problems += [
        f"{where}: has {name} {found.versions.get(name, 'not installed')}, "
        f"{expected.host} has {version}. Install the same version everywhere."
        for name, version in expected.versions.items()
        if found.versions.get(name, "not installed") != version
    ]
    if found.problems:
        return problems
    for name in sorted(expected.stored.keys() | found.stored.keys()):
        here, there = expected.stored.get(name), found.stored.get(name)
        if here is None and there is not None:
            problems.append(f"{where}: {there.path}: {expected.host} has no such file. {_CURE}")
        elif there is None and here is not None:
            problems.append(f"{where}: {here.path}: missing there. {_CURE}")
        elif here is not None and there is not None and here.digest != there.digest:
            cure = _CURE_FITNESS if name == _FITNESS else _CURE
            cure = _CURE_MODULE if name.startswith("engine ") else cure
            problems.append(f"{where}: {there.path}: differs from that on {expected.host}. {cure}")
    return problems


_CURE = "Copy the model to that node again, or put it on a shared disk."
_CURE_MODULE = "Copy the module's files to that node again, or put it on a shared disk."
_CURE_FITNESS = "Copy the fitness and its tasks to that node again, or put them on a shared disk."


def _stored(setup: WorkerSetup) -> dict[str, Stored]:
    """Digests of all weights and small files; the names do not depend on where folders lie."""
    found = {_FITNESS: Stored(setup.fitness.include_path or "fitness", setup.fitness.digest)}
    engine = registry.find("engines", setup.engine, Engine)
    files = engine.files(setup.engine_options)
    for file in files:
        name = os.path.relpath(file, files[0].parent)
        found[f"engine {name}"] = Stored(str(file), _digest(file))
    for number, (folder, checkpoint) in enumerate(Library().models(setup).checkpoints.items()):
        found[f"{number} weights"] = Stored(f"{folder} (weights)", checkpoint.fingerprint)
        for file in sorted(folder.iterdir()):
            if file.suffix in _TEXTS and not file.name.endswith(".index.json"):
                found[f"{number} {file.name}"] = Stored(str(file), _digest(file))
    return found


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
