"""Damaged model files: accepted, or refused with a sentence, and nothing written or waited for."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from damage import damage
from mutations import TIMES, alarm

from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import CandidateError, InputError
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.library import Library

CASES = 500
SMALL = {
    **{"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "num_hidden_layers": 2},
}
_TEMPLATE = "{%- for m in messages -%}{{ m['role'] }}: {{ m['content'] }}\n{%- endfor -%}\n"


class Stage(NamedTuple):
    """Where cases are tried: a recipe, and the files that its models are read from."""

    recipe: Recipe
    files: list[Path]


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Callable[..., Path],
    made: Callable[..., Path],
) -> Stage:
    folder = tmp_path_factory.mktemp("models")
    made_of = {
        "base": tiny(0, **SMALL),
        "whole": tiny(1, **SMALL),
        "sharded": tiny(2, sharded=True, **SMALL),
        "adapter": made(tiny(0, **SMALL), r=2),
    }
    for name, source in made_of.items():
        shutil.copytree(source, folder / name)
    (folder / "base" / "chat_template.jinja").write_text(_TEMPLATE)
    recipe = Recipe(
        base=str(folder / "base"),
        sources={name: str(folder / name) for name in made_of if name != "base"},
        operator="linear",
        dtype="float32",
        chat_template="auto",
    )
    files = sorted(file for file in folder.glob("*/*") if file.suffix != ".md")
    return Stage(recipe, files)


@pytest.mark.parametrize("part", range(2))
def test_damaged_files_are_accepted_or_refused_with_a_sentence(
    stage: Stage, part: int, tmp_path: Path
) -> None:
    found = {"accepted": 0, "refused": 0}
    wrong: list[str] = []
    for number in range(part, CASES * TIMES, 2):
        # half of the cases are about the base, on which most depends
        rng = random.Random(number)
        ours = [file for file in stage.files if (file.parent.name == "base") == (number % 4 < 2)]
        path = rng.choice(ours)
        kept = path.read_bytes()
        damage(path, number)
        try:
            found[_tried(stage.recipe, tmp_path / "out", number)] += 1
        except BaseException as error:
            kind = f"{type(error).__name__}: {str(error)[:200]}"
            wrong.append(f"{number}: {path.parent.name}/{path.name}: {kind}")
            if keep := os.environ.get("FUZZ_KEEP"):
                with suppress(OSError):
                    shutil.copy(path, Path(keep) / f"{number}-{path.parent.name}-{path.name}")
        finally:
            _put_back(path, kept)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
    print(found)
    assert not wrong, f"{len(wrong)} of them:\n" + "\n".join(wrong[:40])
    assert min(found.values()) > CASES // 10


def _tried(recipe: Recipe, out: Path, number: int) -> str:
    """How it ends: what `check` does of models in every other case, else `build`."""
    try:
        with alarm(60):
            if number % 3:
                build(recipe, out)
            else:
                TransformersEngine().try_open(Library().models(recipe))
    except CandidateError as error:
        assert "not finite" in str(error)
        return "refused"
    except InputError as error:
        assert error.problems
        assert all(" " in problem and len(problem) < 5000 for problem in error.problems)
        assert not out.exists()
        return "refused"
    assert sorted(path.name for path in out.parent.iterdir()) == (["out"] if number % 3 else [])
    return "accepted"


def _put_back(path: Path, data: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(data)
