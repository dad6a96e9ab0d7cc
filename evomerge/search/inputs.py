"""What the scores of a run depend on, file by file, and how it differs from what was recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.engines import Engine
from evomerge.plugins import registry
from evomerge.recipes import BASE
from evomerge.scoring.files import fitness_files
from evomerge.weights.model_files import WEIGHTS, ModelFiles, file_digest
from evomerge.weights.models import Models
from evomerge.worker import WorkerSetup

Recorded = Mapping[str, Mapping[str, str]]  # as `Inputs.digests`


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files of models, statistics, fitness and engine.

    Attributes:
        digests: by the key in a search that names them (``base``, ``sources.math``): file to
            digest, and for models `WEIGHTS` to that of all weights.
        folders: where the files of each key are.
    """

    digests: Recorded
    folders: Mapping[str, Path]

    def differences(self, recorded: Recorded) -> list[str]:
        """A sentence for each file that is not as it was recorded. What was not, is not compared.

        Weights are the same in other files, such as smaller shards.
        """
        found: list[str] = []
        of_others: list[str] = []
        for key, then in recorded.items():
            where = self.folders.get(key, Path())
            changed = dict(_changed(then, self.digests.get(key, {}), where))
            if changed.pop(WEIGHTS, None) is None:
                changed = {n: what for n, what in changed.items() if not _is_weights(n)}
            elif not any(map(_is_weights, changed)):
                # those of an adapter depend on its base, those of a recipe on all of its models
                of_others.append(f"{key}: {where}: its weights have changed")
            found += [f"{key}: {where / name}: {what}" for name, what in changed.items()]
        return found or of_others


def model_inputs(models: Models, statistics: Mapping[str, str]) -> Inputs:
    """The files of open models, and of statistics by the name of their source.

    Raises:
        CheckpointError: files that cannot be read.
        SourceChangedError: files that change while they are read.
    """
    named = {BASE: models.base, **{f"sources.{n}": m for n, m in models.sources.items()}}
    digests = {key: model.digests for key, model in named.items()}
    folders = {key: model.folder for key, model in named.items()}
    for name, folder in statistics.items():
        key = f"statistics.{name}"
        folders[key] = Path(folder)
        digests[key] = ModelFiles(folders[key]).digests
    return Inputs(digests, folders)


def read_inputs(models: Models, statistics: Mapping[str, str], setup: WorkerSetup) -> Inputs:
    """All files that scores depend on; arguments and errors as for `model_inputs`."""
    read = model_inputs(models, statistics)
    engine = registry.find("engines", setup.engine, Engine).files(setup.engine_options)
    others = {"fitness": fitness_files(setup.fitness), "engine": engine}
    digests = {key: {str(f): file_digest(f) for f in files} for key, files in others.items()}
    return Inputs({**read.digests, **digests}, read.folders)


def recorded(fingerprints: Mapping[str, str | Mapping[str, str]]) -> Recorded:
    """What a run has recorded; runs of 0.3.0 and before have one digest of each model's weights."""
    return {
        (key if key == BASE or isinstance(one, Mapping) else f"sources.{key}"): (
            one if isinstance(one, Mapping) else {WEIGHTS: one}
        )
        for key, one in fingerprints.items()
    }


def _changed(
    then: Mapping[str, str], now: Mapping[str, str], where: Path
) -> Iterator[tuple[str, str]]:
    """Every file that differs, and how; those that are new count where any were recorded."""
    for name, digest in then.items():
        path = where / name
        if name not in now and not path.is_file():
            yield name, "was removed"
        elif (now[name] if name in now else file_digest(path)) != digest:
            yield name, "has changed"
    # paths of fitness and engine are absolute: what a text may name depends on the working folder
    if then.keys() - {WEIGHTS}:
        yield from ((n, "was added") for n in now if n not in then and not Path(n).is_absolute())


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")
