"""What the scores of a run depend on, file by file."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.engines import Engine
from evomerge.plugins import registry
from evomerge.scoring.files import fitness_files
from evomerge.weights.files.model_files import file_digest
from evomerge.weights.inputs import Inputs, model_inputs
from evomerge.weights.models import Models
from evomerge.worker import WorkerSetup


def read_inputs(models: Models, statistics: Mapping[str, str], setup: WorkerSetup) -> Inputs:
    """The files of the models, the fitness and the engine; their keys are those of a search.

    Args:
        models: of the run, open.
        statistics: name of a source to the folder with its statistics.

    Raises:
        CheckpointError: files that cannot be read.
        SourceChangedError: files that change while they are read.
    """
    read = model_inputs(models, statistics)
    engine = registry.find("engines", setup.engine, Engine).files(setup.engine_options)
    others = {"fitness": fitness_files(setup.fitness), "engine": engine}
    digests = {key: {str(f): file_digest(f) for f in files} for key, files in others.items()}
    return Inputs({**read.digests, **digests}, read.folders)
