"""One Ray cluster of real processes for all tests of this folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Run

import evomerge.engines
from evomerge.config.load import load
from evomerge.search.run import start

HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def plugins() -> Iterator[None]:
    """The driver knows the engines that its workers know."""
    folders = evomerge.engines.__path__
    folders.append(str(HERE / "plugins"))
    yield
    folders.remove(str(HERE / "plugins"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head with four CPUs, for two pools of two workers; tests add nodes and take them away."""
    import ray
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    # workers import what the tests import, whichever evomerge is installed
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    # no processes before they are needed, no web pages; a lost node is noticed in 3 s, not 15
    config = {"prestart_worker_first_driver": False, "health_check_period_ms": 500}
    options = {"num_cpus": 4, "include_dashboard": False, "_system_config": config}
    made = Cluster(initialize_head=True, head_node_args=options)
    ray.init(
        address=made.address,
        log_to_driver=False,
        runtime_env={
            "worker_process_setup_hook": "faulty_engine.install",
            "env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        },
    )
    signal.signal(signal.SIGTERM, handler)
    yield made
    ray.shutdown()
    made.shutdown()
    os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """What one worker in one process, this one, finds."""
    with Run(tmp_path_factory.mktemp("alone"), name="local") as alone:
        start(load(alone.file).search, alone.folder, lambda progress: None)
        return alone.rows()
