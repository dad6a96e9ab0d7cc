"""The commands as a person types them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml
from lm_eval._cli import HarnessCLI
from safetensors.torch import load_file, save_file

from evomerge.plugins import registry

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"
QUICKSTART = ROOT / "experiments" / "quickstart" / "search.yaml"
IN_FULL = ("--set", "racing=false", "--set", "budget={evaluations: 320}")

Cli = Callable[..., Any]


@pytest.fixture(scope="session")
def data(cli: Cli) -> Callable[..., Any]:
    """Runs a command that succeeds, and reads the JSON that it prints."""

    def read(*words: object, **options: Any) -> Any:
        done = cli(*words, "--json", **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return read


@pytest.mark.parametrize("group", ["operators", "optimizers", "engines"])
def test_list_finds_every_file_of_a_folder(data: Cli, group: str) -> None:
    assert [row["name"] for row in data("list", group)] == list(registry.names(group))


def test_list_tells_genes_and_parameters_of_operators(data: Cli) -> None:
    rows = {row["name"]: row for row in data("list", "operators")}
    ties = rows["ties"]
    assert ties["needs"] == ["a base"]
    assert ties["modifiers"] is True
    density = next(p for p in ties["parameters"] if p["name"] == "density")
    assert (density["per_source"], density["domain"], density["default"]) == (True, "[0, 1]", 1.0)
    (gene,) = (gene for gene in ties["genes"] if gene["name"] == "density")
    assert gene == {
        **{"name": "density", "per_source": True},
        **{"low": 0.05, "high": 1, "scale": "log", "initial": 0.5},
    }
    assert rows["rtsvm"]["experimental"] is True
    assert rows["rtsvm"]["genes"] == []
    assert rows["opcm"]["genes"][-1] == {"name": "order", "per_source": True}


def test_the_table_of_operators_fits_160_columns(cli: Cli) -> None:
    lines = cli("list", "operators").stdout.splitlines()
    assert max(map(len, lines)) <= 160
    row = next(line for line in lines if line.strip().startswith("ties "))
    assert "a base" in row and "density_i 0.05…1 log, lam 0.3…2.5" in row


@pytest.mark.parametrize(("group", "folder"), [("spaces", "search_spaces"), ("fitness", "fitness")])
def test_list_finds_every_preset_and_says_where_from(data: Cli, group: str, folder: str) -> None:
    rows = data("list", group)
    assert [row["name"] for row in rows] == sorted(p.stem for p in (ROOT / folder).glob("*.yaml"))
    assert all(Path(row["from"]).is_file() and row["about"] for row in rows)


def test_a_preset_of_the_working_folder_wins(data: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "search_spaces" / "ties_by_block.yaml"
    mine.parent.mkdir()
    mine.write_text("# mine\nkind: parameter\noperator: ties\n")
    found = {row["name"]: row["from"] for row in data("list", "spaces", cwd=tmp_path)}
    assert found["ties_by_block"] == str(mine)
    assert "linear_by_block" in found


def test_an_unknown_group_is_refused(cli: Cli) -> None:
    assert cli("list", "colours").returncode == 2


def test_check_tells_size_and_cost_and_writes_nothing(data: Cli, tmp_path: Path) -> None:
    facts = data("check", QUICKSTART, *IN_FULL, cwd=tmp_path)
    assert facts["layers"] == 4
    assert facts["genome_dimension"] > 0
    assert facts["search_examples"]["arithmetic"] == 100
    assert facts["examples_to_answer"] > 320 * 400
    assert list(tmp_path.iterdir()) == []


def test_check_can_time_one_candidate(data: Cli, tmp_path: Path) -> None:
    facts = data("check", QUICKSTART, "--probe", *IN_FULL, cwd=tmp_path)
    assert facts["fits_here"] == "yes"
    assert facts["seconds_per_candidate"] > 0
    assert facts["gpu_hours_for_the_budget"] == 0  # no GPU is asked for
    count = 320 + facts["baselines"] + 1
    assert facts["seconds_for_the_budget"] == pytest.approx(
        count * facts["seconds_per_candidate"], rel=1e-2
    )
    assert list(tmp_path.iterdir()) == []


def test_check_lists_all_problems_and_exits_with_2(cli: Cli, tmp_path: Path) -> None:
    search = yaml.safe_load(QUICKSTART.read_text())
    search |= {"base": "/nowhere", "optimizer": {"name": "cmaes", "popsize": 3}}
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(search))
    done = cli("check", path)
    assert done.returncode == 2
    assert done.stdout == ""
    for part in ("/nowhere: no such folder", "Did you mean 'population_size'", "problems:"):
        assert part in done.stderr
    assert cli("run", path, "--run", tmp_path / "run").returncode == 2
    assert not (tmp_path / "run").exists()


def test_a_refusal_ends_the_process_with_2_and_says_why_on_stderr(tmp_path: Path) -> None:
    """As a process: all other refusals are tested in this one."""
    command = [sys.executable, "-c", "from evomerge.cli import main; main()"]
    done = subprocess.run([*command, "show", tmp_path], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{tmp_path}: has no run")


@pytest.mark.parametrize("command", ["resume", "show", "export"])
def test_a_folder_without_a_run_is_refused(cli: Cli, command: str, tmp_path: Path) -> None:
    done = cli(command, tmp_path)
    assert done.returncode == 2
    assert "has no run" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def run(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the quickstart, with its checkpoint."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    few = "budget={evaluations: 4}"
    done = cli("run", QUICKSTART, "--run", folder, "--set", few, "--set", "champions=1")
    assert done.returncode == 0, done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return folder


def test_a_run_goes_on_with_another_executor_and_nothing_else(cli: Cli, run: Path) -> None:
    done = cli("resume", run, "--set", "executor.name=local", "--set", "seed=1")
    assert done.returncode == 2
    assert "'seed=1': a run goes on as it began" in done.stderr
    done = cli("resume", run, "--set", "executor=nonsense")
    assert done.returncode == 2
    assert "no executor is called 'nonsense'" in done.stderr
    assert cli("resume", run, "--set", "executor=local").returncode == 0


def test_a_run_ends_with_the_table_and_where_things_are(run: Path) -> None:
    output = (run / "output.txt").read_text()
    for part in (
        "source: strings",
        "uniform average",
        "paper's defaults",
        "best recipe",
        "held-out",
        "±",
    ):
        assert part in output
    assert f"recipe      {run / 'recipe.yaml'}" in output
    assert f"checkpoint  {run / 'best'}" in output
    assert output.count("lm_eval --model hf") == 2


def printed(run: Path) -> list[str]:
    """The words of the command that a run prints to score its best on the search's examples."""
    lines = (run / "output.txt").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("score it (search)"))
    return shlex.split(line.partition(":")[2])


def compare(results: Path, best: dict[str, Any]) -> None:
    """Exactly the scores that lm-eval has written."""
    (path,) = results.rglob("results*.json")
    plain = json.loads(path.read_text())["results"]
    assert len(best["tasks"]) >= 3
    theirs = {
        name: next(v for k, v in plain[f"zoo_{name}"].items() if k.startswith("exact_match,"))
        for name in best["tasks"]
    }
    assert theirs == best["tasks"]


def test_lm_eval_gives_exactly_the_same_scores(
    data: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program in this process, less the index of its own 14 000 task files."""
    monkeypatch.setattr(sys, "argv", [*printed(run), "--output_path", str(tmp_path)])
    manager = partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # it sets that for all that follows
    monkeypatch.chdir(ROOT)
    program = HarnessCLI()
    with warnings.catch_warnings(action="ignore"):
        program.execute(program.parse_args())
    compare(tmp_path, data("show", run)["best"])


@pytest.mark.slow
def test_plain_lm_eval_gives_exactly_the_same_scores(data: Cli, run: Path, tmp_path: Path) -> None:
    script = "from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    command = [sys.executable, "-c", script, *printed(run)[1:], "--output_path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    compare(tmp_path, data("show", run)["best"])


def test_an_exported_recipe_builds_the_checkpoint_of_the_run(
    cli: Cli, run: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    assert cli("export", run, "-o", recipe).returncode == 0
    done = cli("build", recipe, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "model")
    name = "model.safetensors"
    assert (tmp_path / "model" / name).read_bytes() == (run / "best" / name).read_bytes()


def test_a_mergekit_export_builds_the_same_weights(cli: Cli, run: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mergekit.yaml"
    assert cli("export", run, "--format", "mergekit", "-o", recipe).returncode == 0
    assert "merge_method" in yaml.safe_load(recipe.read_text())
    done = cli("build", recipe, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    name = "model.safetensors"
    assert (tmp_path / "model" / name).read_bytes() == (run / "best" / name).read_bytes()


def test_evaluate_gives_a_recipe_a_checkpoint_and_a_run_the_same_score(
    data: Cli, run: Path
) -> None:
    engine = "{name: transformers, batch_size: 128, threads: 1}"
    words = ("--fitness", "zoo_skills", "--engine", engine)
    best = data("show", run)["best"]
    recipe = data("evaluate", run / "recipe.yaml", *words)
    checkpoint = data("evaluate", run / "best", *words, "--split", "held_out")
    assert recipe["tasks"] == best["tasks"]
    assert recipe["value"] == best["value"]
    assert checkpoint["tasks"] == best["held_out_tasks"]
    assert checkpoint["half_width"] == best["held_out_half_width"]


def test_a_candidate_that_does_not_exist_is_refused(cli: Cli, run: Path) -> None:
    done = cli("export", run, "--candidate", "999")
    assert done.returncode == 2
    assert "no candidate 999" in done.stderr


def test_building_over_a_folder_is_refused(cli: Cli, run: Path) -> None:
    done = cli("build", run / "recipe.yaml", run / "best")
    assert done.returncode == 2
    assert "exists already" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evomerge: 2\n", "expected 'evomerge: 1'"),
        ("evomerge: 1\nbase: /nowhere\nsorces: {}\n", "Did you mean 'sources'?"),
        ("just text\n", "expected keys and values"),
    ],
)
def test_a_wrong_recipe_is_refused(cli: Cli, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    done = cli("build", path, tmp_path / "model")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "/nowhere", "--fitness", "zoo_skills"), "/nowhere: no such folder"),
        (("evaluate", ZOO / "base", "--fitness", "zoo_skill"), "Did you mean 'zoo_skills'?"),
        (
            ("evaluate", ZOO / "base", "--fitness", "zoo_skills", "--engine", "{name: vlm}"),
            "no engine is called 'vlm'",
        ),
        (("evaluate", ZOO / "base", "--fitness", "zoo_skills", "--engine", "{"), "not valid YAML"),
    ],
)
def test_evaluate_refuses_what_does_not_exist(
    cli: Cli, words: tuple[object, ...], message: str
) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert message in done.stderr


def test_every_command_says_what_a_merge_leaves_out(cli: Cli, tmp_path: Path) -> None:
    base = Path(shutil.copytree(ZOO / "base", tmp_path / "base"))
    (base / "pytorch_model.bin").write_bytes(b"")
    tasks = {"t": {"task": "zoo_arithmetic", "search_examples": 2}}
    fitness = {"include_path": str(ROOT / "fitness" / "zoo_skills"), "tasks": tasks}
    weight = {"weight": {"low": 0, "high": 1}}
    search = {
        **{"name": "s", "base": "base", "sources": {"a": str(ZOO / "arithmetic")}},
        "space": {"kind": "parameter", "operator": "linear", "parameters": weight},
        **{"fitness": fitness, "optimizer": "random", "budget": {"evaluations": 1}},
        "engine": {"name": "transformers", "threads": 1},
    }
    mergekit: dict[str, Any] = {
        "merge_method": "linear",
        "models": [{"model": str(base)}],
        "dtype": "float32",
    }
    mergekit |= {"parameters": {"weight": 1, "lambda": 1}}
    files = {"search": search, "fitness": fitness, "mergekit": mergekit}
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    run, scored = tmp_path / "run", ("--fitness", tmp_path / "fitness.yaml")
    note = f"pytorch_model.bin in {base}: not read"
    for words in (
        ("check", tmp_path / "search.yaml"),
        ("run", tmp_path / "search.yaml", "--run", run),
        ("resume", run),
        ("build", run, tmp_path / "built"),
        ("evaluate", run / "recipe.yaml", *scored),
    ):
        done = cli(*words)
        assert done.returncode == 0, done.stderr
        assert (done.stdout + done.stderr).count(note) == 1, words
    done = cli("evaluate", tmp_path / "mergekit.yaml", *scored)
    assert "note:" in done.stderr
    assert "mergekit's linear has no such parameter, and ignores it" in done.stderr


def test_a_nan_in_a_model_is_wrong_input_to_evaluate(cli: Cli, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ZOO / "base", model)
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    done = cli("evaluate", model, "--fitness", "zoo_skills")
    assert done.returncode == 2
    assert "tensor lm_head.weight holds 1 NaN" in done.stderr
