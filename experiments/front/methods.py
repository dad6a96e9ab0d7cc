"""What is compared: ways to search for a front, each an ordinary run of evomerge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.analysis.front import RunFront
from evomerge.analysis.run import Run
from evomerge.config.load import load
from evomerge.search.run import resume, start
from evomerge.search.spec import Search
from evomerge.store import Store
from experiments.front.mergenetic import Nsga2

FOLDER = Path(__file__).resolve().parent
PEER = "mergenetic"


@dataclass(frozen=True, slots=True)
class Method:
    """A way to search.

    Attributes:
        title: in the table.
        keys: of the search YAML that it changes, as behind ``--set``.
    """

    title: str
    keys: tuple[str, ...]


def _sampler(name: str) -> tuple[str, ...]:
    return (f"optimizer={{name: optuna, sampler: {name}}}",)


METHODS = {
    "pareto": Method("pareto", ("optimizer=pareto",)),
    "cmaes": Method("cmaes, and all that it scored", ("optimizer=cmaes",)),
    PEER: Method("NSGA-II of pymoo, as in Mergenetic", ("optimizer=random",)),  # in its place
    "nsga2": Method("NSGA-II of Optuna", _sampler("NSGAIISampler")),
    "nsga3": Method("NSGA-III of Optuna", _sampler("NSGAIIISampler")),
    "motpe": Method("MOTPE of Optuna", _sampler("TPESampler")),
    "random": Method("random", ("optimizer=random",)),
}


def front(zoo: str, method: str, seed: int, folder: Path) -> RunFront:
    """The front of a run that is brought to its end; gone on with where it was stopped."""
    keys = [f"seed={seed}", f"fitness.seed={seed}", *METHODS[method].keys]
    search = load(FOLDER / f"{zoo}.yaml", keys).search
    if method == PEER:
        search = _by_peer(search, seed)
    if not Store.exists(folder):
        start(search, folder, lambda progress: None)
    elif not finished(folder):
        resume(search, folder, lambda progress: None)
    found = Run.open(folder).front()
    if found.held_out_hypervolume is None:
        raise SystemExit(f"{folder}: its front was not scored on held-out examples")
    return found


def finished(folder: Path) -> bool:
    """Whether there is such a run, and it has ended."""
    return Store.exists(folder) and Run.open(folder).record.finished_utc is not None


def _by_peer(search: Search, seed: int) -> Search:
    """The search, made by pymoo."""
    names = tuple(search.setup.fitness.aims)
    stage = search.stages[0]
    made = replace(stage, new_optimizer=lambda parameters: Nsga2(parameters, seed, names))
    return replace(search, stages=(made,))
