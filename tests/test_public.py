"""The public API: what `evomerge` itself offers a Python user."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import evomerge
from evomerge import errors

ROOT = Path(__file__).parents[1]
NAMES = [name for name in evomerge.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(evomerge, name))
    assert name in dir(evomerge)


def test_all_errors_are_public() -> None:
    raised = {
        name
        for name, item in vars(errors).items()
        if inspect.isclass(item) and issubclass(item, errors.EvomergeError)
    }
    assert raised <= set(evomerge.__all__)


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'appyl'"):
        getattr(evomerge, "appyl")  # noqa: B009


def test_public_names_hold_whatever_was_imported_before() -> None:
    code = (
        "import evomerge, evomerge.search.spec, evomerge.weights.build\n"
        f"assert all(callable(getattr(evomerge, name)) for name in {NAMES})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_search_is_the_function_too(tmp_path: Path) -> None:
    with pytest.raises(evomerge.ConfigError, match="No such file"):
        evomerge.search(tmp_path / "nowhere.yaml")


def test_it_shows_its_own_arguments_and_goes_to_other_processes() -> None:
    assert list(inspect.signature(evomerge.search).parameters)[:2] == ["search", "run"]
    assert pickle.loads(pickle.dumps(evomerge.search)) is evomerge.search


def test_a_split_that_there_is_not_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(evomerge.ConfigError, match=r"split: no 'heldout'. Did you mean 'held_out'"):
        evomerge.evaluate("nowhere", "nothing", split="heldout")  # type: ignore[arg-type]


def test_overrides_of_a_search_that_is_loaded_are_refused() -> None:
    loaded = evomerge.load(ROOT / "experiments" / "quickstart" / "search.yaml")
    with pytest.raises(evomerge.ConfigError, match=r"Give them to evomerge\.load"):
        evomerge.search(loaded, overrides=["seed=1"])
