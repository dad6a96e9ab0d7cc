"""Whether machines agree on what scores depend on: versions of libraries, models, code, fitness.

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
from evomerge.weights.files.model_files import WEIGHTS
from evomerge.weights.library import Library
from evomerge.worker import WorkerSetup

LIBRARIES = ("torch", "transformers", "lm_eval", "vllm", "tokenizers")
_CURES = {
    "model": "Copy the model to that node again, or put it on a shared disk.",
    "engine": "Copy the module's files to that node again, or put them on a shared disk.",
    "fitness": "Copy the fitness and its tasks to that node again, or put them on a shared disk.",
}


class StoredFile(NamedTuple):
    """A file, or the weights of a model: its path on this machine, and a digest of its content."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a machine has that changes scores; plain data.

    Attributes:
        host: its name.
        versions: library to version.
        stored: weights and files, by names that are the same on every machine.
        problems: what cannot be opened there.
    """

    host: str
    versions: Mapping[str, str]
    stored: Mapping[str, StoredFile]
    problems: tuple[str, ...] = ()


def inspect_machine(setup: WorkerSetup) -> Inspection:
    """The libraries and files of a run on this machine; of weights only headers and samples."""
    host, installed = socket.gethostname(), versions(*LIBRARIES)
    try:
        return Inspection(host, installed, _stored(setup))
    except InputError as error:
        return Inspection(host, installed, {}, error.problems)
    except OSError as error:
        return Inspection(host, installed, {}, (str(error),))


def differences(expected: Inspection, actual: Inspection, where: str) -> list[str]:
    """One sentence for each way in which a machine differs from the expected one.

    Args:
        where: names the machine, e.g. ``node 10.0.0.7``.
    """
    problems = [f"{where}: {problem}" for problem in actual.problems]
    problems += [
        f"{where}: has {name} {actual.versions.get(name, 'not installed')}, "
        f"{expected.host} has {version}. Install the same version everywhere."
        for name, version in expected.versions.items()
        if actual.versions.get(name, "not installed") != version
    ]
    if actual.problems:
        return problems
    for name in sorted(expected.stored.keys() | actual.stored.keys()):
        here, there = expected.stored.get(name), actual.stored.get(name)
        cure = _CURES.get(name.partition(" ")[0], _CURES["model"])
        if here is None and there is not None:
            problems.append(f"{where}: {there.path}: {expected.host} has no such file. {cure}")
        elif there is None and here is not None:
            problems.append(f"{where}: {here.path}: missing there. {cure}")
        elif here is not None and there is not None and here.digest != there.digest:
            problems.append(f"{where}: {there.path}: differs from that on {expected.host}. {cure}")
    return problems


def _stored(setup: WorkerSetup) -> dict[str, StoredFile]:
    """The run's weights and small files, by names that do not depend on where folders are."""
    fitness = setup.fitness
    stored = {"fitness": StoredFile(fitness.include_path or "fitness", fitness.digest)}
    engine = registry.find("engines", setup.engine, Engine)
    files = engine.files(setup.engine_options)
    for file in files:
        name = os.path.relpath(file, files[0].parent)
        stored[f"engine {name}"] = StoredFile(str(file), _digest(file))
    checkpoints = Library().models(setup.composition).checkpoints
    for number, (folder, checkpoint) in enumerate(checkpoints.items()):
        for name, digest in checkpoint.digests.items():
            path = f"{folder} (weights)" if name == WEIGHTS else str(folder / name)
            # a node may have the same weights in other files
            if not name.endswith(".safetensors"):
                stored[f"{number} {name}"] = StoredFile(path, digest)
    return stored


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
