"""The files that models are read from, by what a recipe calls them, against what was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.recipes import BASE
from evomerge.recipes.scored import Recorded, Scored
from evomerge.weights.files.model_files import WEIGHTS, ModelFiles, file_digest, require_unchanged
from evomerge.weights.layouts.rearranged import Rearranged
from evomerge.weights.models import Models
from evomerge.weights.virtual import VirtualCheckpoint


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files of models, and of whatever else scores depend on.

    Attributes:
        digests: by the key that names them (``base``, ``sources.math``): file to digest, and for
            models `WEIGHTS` to that of all weights.
        folders: where the files of each key are.
    """

    digests: Recorded
    folders: Mapping[str, Path]

    def differences(self, recorded: Recorded) -> list[str]:
        """A phrase for each file that is not as it was recorded. What was not, is not compared.

        Weights are the same in files of other names, such as smaller shards.

        Args:
            recorded: digests may be cut short.
        """
        found: list[str] = []
        of_others: list[str] = []
        for key, then in recorded.items():
            where = self.folders.get(key, Path())
            now = self.digests.get(key, {})
            changed = dict(_changed(then, now, where))
            if changed.pop(WEIGHTS, None) is None and WEIGHTS in then:
                if _weights(then) != _weights(now):
                    changed = {n: what for n, what in changed.items() if not _is_weights(n)}
            elif WEIGHTS in then and not any(map(_is_weights, changed)):
                # those of an adapter depend on its base, those of a recipe on all of its models
                of_others.append(f"{key}: {where}: its weights have changed")
            found += [f"{key}: {where / name}: {what}" for name, what in changed.items()]
        return found or of_others


def model_inputs(models: Models, statistics: Mapping[str, str], prefix: str = "") -> Inputs:
    """The files of open models, of the recipes among them, and of statistics.

    Args:
        statistics: name of a source to the folder with its statistics.
        prefix: of the keys.

    Raises:
        CheckpointError: files that cannot be read.
        SourceChangedError: files that change while they are read.
    """
    named = {f"{prefix}{BASE}": models.base}
    named |= {f"{prefix}sources.{name}": model for name, model in models.sources.items()}
    digests: dict[str, Mapping[str, str]] = {}
    folders: dict[str, Path] = {}
    for key, model in named.items():
        digests[key], folders[key] = model.digests, model.folder
        own = model.source if isinstance(model, Rearranged) else model
        if isinstance(own, VirtualCheckpoint):
            inner = own.plan
            within = model_inputs(inner.models, inner.recipe.statistics, f"{key}.")
            digests |= within.digests
            folders |= within.folders
    for name, folder in statistics.items():
        key = f"{prefix}statistics.{name}"
        folders[key] = Path(folder)
        digests[key] = ModelFiles(folders[key]).digests
    return Inputs(digests, folders)


def require_scored(models: Models, scored: Scored) -> None:
    """Raise unless open models are those with which a recipe was scored.

    Raises:
        CheckpointError: names every file that differs.
    """
    inputs = model_inputs(models, scored.recipe.statistics)
    known = {key: files for key, files in scored.files.items() if key in inputs.digests}
    if changed := inputs.differences(known):
        raise CheckpointError(
            f"{problem} since the recipe was scored. {scored.cure}" for problem in changed
        )


@contextmanager
def unchanged(models: Models, statistics: Iterable[str]) -> Iterator[None]:
    """Raise at the end, however it comes, if files have changed since the models were opened.

    Args:
        statistics: folders.

    Raises:
        SourceChangedError: names those that have.
    """
    models.require_unchanged()
    files = [ModelFiles(Path(folder)) for folder in statistics]
    require_unchanged(sentence for one in files for sentence in one.changes())
    try:
        yield
    finally:
        models.require_unchanged()
        require_unchanged(sentence for one in files for sentence in one.changes())


def _changed(
    then: Mapping[str, str], now: Mapping[str, str], where: Path
) -> Iterator[tuple[str, str]]:
    """Every file that differs, and how; those that are new count where any were recorded."""
    for name, digest in then.items():
        path = where / name
        if name not in now and not path.is_file():
            yield name, "was removed"
        elif not (now[name] if name in now else file_digest(path)).startswith(digest):
            yield name, "has changed"
    # paths of fitness and engine are absolute: what a text may name depends on the working folder
    if then.keys() - {WEIGHTS}:
        yield from ((n, "was added") for n in now if n not in then and not Path(n).is_absolute())


def _weights(files: Mapping[str, str]) -> set[str]:
    return set(filter(_is_weights, files))


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")
