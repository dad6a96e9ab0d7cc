"""The documents say what is true: every command is there, every path exists, every YAML loads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from evomerge.cli.app import app
from evomerge.config.load import load
from evomerge.config.schema import SearchFile, StageKeys
from evomerge.executors import Executor
from evomerge.operators import get
from evomerge.plugins.registry import component, options_model, validate_options
from evomerge.recipes.yaml import from_yaml
from evomerge.scoring import Fitness
from evomerge.scoring.by_example import search_examples
from evomerge.scoring.python import PythonScorer
from evomerge.spaces import SearchContext
from evomerge.spaces.dataflow import DataflowSpace
from evomerge.spaces.joint import JointSpace
from evomerge.yaml_files import parse_yaml

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("*/*.md"),
        *ROOT.glob("docs/*/*.md"),
        *ROOT.glob("experiments/*/README.md"),
    ]
    if not {".venv", "runs"} & set(path.relative_to(ROOT).parts)
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    found = [
        info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands
    ]
    return sorted(found)


def test_there_are_commands() -> None:
    assert {"check", "run", "resume", "show", "export", "build", "evaluate", "list"} <= set(
        commands()
    )


@pytest.mark.parametrize("command", commands())
def test_the_readme_shows_every_command(command: str) -> None:
    assert re.search(rf"evomerge {command}\b", README)


def test_documents_name_no_command_that_does_not_exist() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text, re.DOTALL):
            for word in re.findall(r"^(?:\$ )?evomerge ([a-z]+)", block, re.MULTILINE):
                assert word in commands(), f"{document.name}: evomerge {word}"


def test_every_make_target_that_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "format", "lint", "types", "test", "check", "demo", "zoo", "bench"} <= targets
    for document in DOCUMENTS:
        for name in re.findall(r"`?\bmake ([a-z0-9-]+)(?=`|\s+#)", document.read_text("utf-8")):
            assert name in targets, f"{document.name}: make {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_in_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text):
        assert (document.parent / link.split("#")[0]).exists(), link
    for path in re.findall(
        r"`((?:evomerge|tests|experiments|benchmarks|fitness|search_spaces)/[\w./-]+)`", text
    ):
        assert (ROOT / path).exists(), path


def test_contributing_has_a_row_for_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Where do I change")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    house = ROOT / "evomerge"
    rooms = {path.name for path in house.iterdir() if path.name[0] not in "_."}
    rooms |= {
        f"weights/{path.name}"
        for path in (house / "weights").iterdir()
        if (path / "__init__.py").exists()
    }
    assert {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)} == rooms


def test_yaml_in_the_readme_is_valid() -> None:
    searches = fitnesses = 0
    for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL):
        content = yaml.safe_load(block)
        if "budget" in content:
            inlined = {"space": {"kind": "parameter"}, "fitness": {"tasks": ["x"]}}
            SearchFile.model_validate(content | inlined)
            searches += 1
        if "tasks" in content:
            Fitness.model_validate(content)
            fitnesses += 1
    assert searches >= 1
    assert fitnesses >= 1


RECIPES = re.findall(
    r"```yaml\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text("utf-8"), re.DOTALL
)


@pytest.mark.parametrize("block", RECIPES)
def test_recipes_in_documents_are_recipes(block: str) -> None:
    recipe = from_yaml(parse_yaml(block, "docs/recipes.md"), "docs/recipes.md")
    operator = get(recipe.operator)
    assert set(recipe.parameters) <= set(operator.parameters)
    assert bool(recipe.statistics) == (operator.statistics is not None)


def test_the_space_in_the_document_on_stacks_is_one() -> None:
    text = (ROOT / "docs" / "dataflow.md").read_text("utf-8")
    keys = parse_yaml(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0], "docs/dataflow.md")
    assert keys.pop("kind") == "dataflow"
    context = SearchContext(
        base="/base",
        sources={name: f"/{name}" for name in ("math", "ja", "code")},
        layers=32,
        dtype="bfloat16",
    )
    space = DataflowSpace(context, **validate_options(DataflowSpace, keys))
    assert space.decode(space.initial()).depth == 32
    for option in options_model(DataflowSpace).model_fields:
        assert re.search(rf"`{option}`|^{option}:", text, re.MULTILINE), option


def test_the_joint_space_in_the_document_on_stacks_is_one() -> None:
    text = (ROOT / "docs" / "dataflow.md").read_text("utf-8")
    keys = parse_yaml(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[1], "docs/dataflow.md")
    assert keys.pop("kind") == "joint"
    context = SearchContext(
        base="/base",
        sources={name: f"/{name}" for name in ("math", "ja")},
        layers=32,
        dtype="bfloat16",
    )
    space = JointSpace(context, **validate_options(JointSpace, keys))
    assert space.decode(space.initial()).depth == 32
    assert space.largest().depth == 48


def test_the_scorer_in_the_document_on_engines_can_be_raced(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "engines.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "code.py").write_text(block, encoding="utf-8")
    fitness = Fitness.model_validate({"tasks": {"x": {"scorer": f"{tmp_path}/code.py:accuracy"}}})
    assert search_examples(fitness).indivisible == {}
    scorer, asked = PythonScorer(fitness, "search"), (3, 50, 199)
    module = torch.nn.Linear(6, 2)
    whole, part = scorer.score(module)["x"], scorer.score(module, portion={"x": asked})["x"]
    assert set(whole.example_scores) == {0.0, 1.0}
    assert part.doc_ids == asked
    assert part.example_scores == tuple(whole.example_scores[example] for example in asked)


def test_the_search_in_the_document_on_stages_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "stages.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "stages").mkdir()
    (tmp_path / "zoo").symlink_to(ROOT / "experiments" / "zoo")
    path = tmp_path / "stages" / "search.yaml"
    path.write_text(block, encoding="utf-8")
    merge, stack = load(path).search.stages
    assert (merge.needs, stack.needs) == ((), ("merge",))
    recipe = stack.space.decode(stack.space.initial())
    assert recipe.base == merge.space.decode(merge.space.initial())
    for key in StageKeys.model_fields:
        assert f"`{key}`" in text


def test_files_for_clusters_are_whole() -> None:
    folder = ROOT / "docs" / "cluster"
    keys, job = (
        yaml.safe_load(re.findall(r"```yaml\n(.*?)```", (folder / name).read_text(), re.DOTALL)[0])
        for name in ("README.md", "kuberay.md")
    )
    component("executor", Executor, keys["executor"]).make()
    assert job["kind"] == "RayJob"
    assert job["spec"]["entrypoint"].startswith("evomerge run ")
    (script,) = re.findall(r"```bash\n(.*?)```", (folder / "slurm.md").read_text(), re.DOTALL)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
