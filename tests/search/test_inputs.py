"""What a run depends on changes before it is resumed, while it goes on, or before its end."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from evomerge.analysis.evaluate import evaluate
from evomerge.config.load import load
from evomerge.errors import CheckpointError, MachineError, RunError, SourceChangedError
from evomerge.executors.local import LocalExecutor
from evomerge.search.run import resume, start
from evomerge.store import RunRecord, Store
from evomerge.store.records import recorded_files
from evomerge.types import Job
from evomerge.weights.inputs import Inputs, model_inputs
from evomerge.weights.library import Library
from evomerge.worker import Worker

Content = dict[str, Any]
Cli = Callable[..., Any]


@pytest.fixture
def search(layers: Content, tmp_path: Path) -> Content:
    """A search of ten candidates among copies of single layers, whose scorer reads data."""
    folder = tmp_path / "models"
    shutil.copytree(Path(layers["base"]).parent, folder)
    (folder / "scores.json").write_text("[0.5]")
    (folder / "config.json").write_text("{}")
    code = folder / "code.py"
    code.write_text(code.read_text() + "\nDATA = 'scores.json'\n")
    text = json.dumps(layers).replace(str(Path(layers["base"]).parent), str(folder))
    space = {
        "kind": "parameter",
        "operator": "linear",
        "parameters": {"weight": {"low": 0.1, "high": 1}},
    }
    return {
        **json.loads(text),
        "name": "changing",
        "space": space,
        "optimizer": {"name": "random"},
        "budget": {"evaluations": 10},
    }


def write(folder: Path, content: Content) -> Path:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def other_weights(file: Path, *, in_place: bool = False) -> None:
    tensors = {name: tensor + 1 for name, tensor in load_file(file).items()}
    new = file.with_suffix(".new")
    save_file(tensors, new, metadata={"format": "pt"})
    if in_place:
        shutil.copyfile(new, file)
        new.unlink()
    else:
        new.replace(file)


def stopping_after(count: int, then: Callable[[], None] | None = None) -> Callable[[Any], None]:
    """An observer that stops the run, or does something, once that many candidates are done."""
    seen: list[int] = []

    def observe(progress: Any) -> None:
        if progress.done >= count and not seen:
            seen.append(progress.done)
            if then is None:
                raise KeyboardInterrupt
            then()

    return observe


def results(folder: Path) -> list[tuple[int, float | None]]:
    with Store.open(folder, read_only=True) as store:
        found = ((c.number, store.evaluation(c.recipe.digest)) for c in store.candidates())
        return [(number, one.value) for number, one in found if one is not None]


CHANGES: dict[str, tuple[str, str]] = {
    "weights": ("sources.a", "a/model.safetensors"),
    "config": ("sources.a", "a/config.json"),
    "tokenizer": ("base", "base/special_tokens_map.json"),
    "data": ("fitness", "scores.json"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_run_does_not_go_on_with_a_file_that_changed(
    case: str, search: Content, tmp_path: Path
) -> None:
    key, name = CHANGES[case]
    run, file = tmp_path / "run", tmp_path / "models" / name
    if not file.exists():
        file.write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        start(load(search).search, run, stopping_after(8))
    shutil.copy(file, tmp_path / "kept")
    if name.endswith("safetensors"):
        other_weights(file)
    else:
        file.write_text('{"changed": 1}')
    with pytest.raises(RunError) as refused:
        resume(load(search).search, run, lambda progress: None)
    (problem,) = refused.value.problems
    assert problem == (
        f"{key}: {file}: has changed since {run} began. "
        "Make it as it was again, or begin a new run."
    )
    shutil.copy(tmp_path / "kept", file)
    resume(load(search).search, run, lambda progress: None)
    whole = tmp_path / "whole"
    start(load(search).search, whole, lambda progress: None)
    assert results(run) == results(whole)


@pytest.mark.parametrize("how", ["in place", "renamed", "cut", "config", "gone"])
def test_a_source_that_changes_under_a_run_stops_it_before_the_next_candidate(
    how: str, search: Content, tmp_path: Path
) -> None:
    run, whole, source = tmp_path / "run", tmp_path / "whole", tmp_path / "models" / "a"
    file = source / ("config.json" if how == "config" else "model.safetensors")
    if how == "config":
        file.write_text("{}")
    start(load(search).search, whole, lambda progress: None)
    shutil.copytree(source, tmp_path / "kept")

    def change() -> None:
        if how == "cut":
            os.truncate(file, 40)
        elif how == "gone":
            file.unlink()
        elif how == "config":
            file.write_text('{"changed": 1}')
        else:
            other_weights(file, in_place=how == "in place")

    with pytest.raises(SourceChangedError) as stopped:
        start(load(search).search, run, stopping_after(9, change))
    what = {"cut": "changed, and cannot be read any more,", "gone": "was removed"}.get(
        how, "changed"
    )
    assert str(stopped.value).splitlines() == [
        f"a: {file}: {what} while it was in use.",
        "Put the files back as they were; a run then goes on with evomerge resume.",
    ]
    before = results(run)
    assert before == results(whole)[: len(before)]
    shutil.copytree(tmp_path / "kept", source, dirs_exist_ok=True)
    resume(load(search).search, run, lambda progress: None)
    assert results(run) == results(whole)


def test_sources_that_are_touched_or_copied_over_under_a_run_stop_nothing(
    search: Content, tmp_path: Path
) -> None:
    run, whole, file = tmp_path / "run", tmp_path / "whole", tmp_path / "models/a/model.safetensors"

    def touch() -> None:
        os.utime(file)
        shutil.copy(file, tmp_path / "copy")
        (tmp_path / "copy").replace(file)

    start(load(search).search, whole, lambda progress: None)
    start(load(search).search, run, stopping_after(9, touch))
    assert results(run) == results(whole)


def test_a_source_that_changed_after_the_last_candidate_keeps_the_run_from_its_end(
    search: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.search.loop import SearchLoop

    run, file = tmp_path / "run", tmp_path / "models" / "a" / "model.safetensors"
    finish = SearchLoop.finish

    def late(loop: SearchLoop) -> None:
        finish(loop)
        other_weights(file)

    shutil.copy(file, tmp_path / "kept")
    monkeypatch.setattr(SearchLoop, "finish", late)
    with pytest.raises(SourceChangedError, match=f"a: {file}: has changed since the run began."):
        start(load(search).search, run, lambda progress: None)
    monkeypatch.undo()
    shutil.copy(tmp_path / "kept", file)
    with Store.open(run, read_only=True) as store:
        assert store.run().finished_utc is None
    resume(load(search).search, run, lambda progress: None)
    with Store.open(run, read_only=True) as store:
        assert store.run().finished_utc is not None


def test_a_run_that_recorded_weights_alone_goes_on_with_the_same_weights(
    search: Content, tmp_path: Path
) -> None:
    run, source = tmp_path / "run", tmp_path / "models" / "a"
    loaded = load(search).search
    models = Library().models(loaded.setup.composition)
    prints = {"base": models.base.fingerprint}
    prints |= {name: model.fingerprint for name, model in models.sources.items()}
    Store.create(run, replace(loaded.record, sources_fingerprints=prints)).close()
    (source / "config.json").write_text('{"new": 1}')  # it was not recorded
    kept = (source / "model.safetensors").read_bytes()
    other_weights(source / "model.safetensors")
    with pytest.raises(RunError, match=f"sources.a: {source}: its weights have changed since"):
        resume(load(search).search, run, lambda progress: None)
    (source / "model.safetensors").write_bytes(kept)
    resume(load(search).search, run, lambda progress: None)
    assert len(results(run)) > 10


def test_weights_in_other_files_are_the_same_weights() -> None:
    then = {"base": {"weights": "w", "model.safetensors": "1", "config.json": "c"}}
    now = {"weights": "w", "model-00001-of-00001.safetensors": "2", "config.json": "c"}
    assert Inputs({"base": now}, {"base": Path("/m")}).differences(then) == []
    now = {**now, "weights": "v", "chat_template.jinja": "t"}
    assert Inputs({"base": now}, {"base": Path("/m")}).differences(then) == [
        "base: /m/model.safetensors: was removed",
        "base: /m/model-00001-of-00001.safetensors: was added",
        "base: /m/chat_template.jinja: was added",
    ]
    record = RunRecord(
        name="n",
        search_yaml="",
        seed=0,
        fitness_digest="",
        settings_digest="",
        sources_fingerprints={"base": "w", "math": "v"},
    )
    assert recorded_files(record) == {
        "base": {"weights": "w"},
        "sources.math": {"weights": "v"},
    }


def ended(search: Content, folder: Path) -> Path:
    start(load(search).search, folder, lambda progress: None)
    return folder


@pytest.mark.parametrize("name", ["a/model.safetensors", "a/config.json", "base/added_tokens.json"])
def test_no_other_model_is_built_than_the_one_that_was_scored(
    name: str, search: Content, cli: Cli, tmp_path: Path
) -> None:
    run, file, out = ended(search, tmp_path / "run"), tmp_path / "models" / name, tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    assert cli("export", run, "-o", recipe).returncode == 0
    source = "base" if name.startswith("base") else "sources.a"
    added, kept = not file.exists(), file.read_bytes() if file.exists() else None
    if name.endswith("safetensors"):
        other_weights(file)
    else:
        file.write_text('{"changed": 1}')
    how = "was added" if added else "has changed"
    what = f"{source}: {file}: {how} since the recipe was scored."
    for given in (run, recipe):
        refused = cli("build", given, out)
        assert (refused.returncode, refused.stderr.startswith(what)) == (2, True), refused.stderr
        assert not out.exists()
    with pytest.raises(CheckpointError, match=re.escape(what)):
        evaluate(recipe, search["fitness"], engine=search["engine"])
    # what the messages say to do
    text = recipe.read_text()
    (tmp_path / "free.yaml").write_text(text[: text.index("files:")])
    assert cli("build", tmp_path / "free.yaml", tmp_path / "other").returncode == 0
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(kept)
    assert cli("build", run, out).returncode == 0
    assert cli("build", recipe, tmp_path / "same").returncode == 0
    built = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "same")]
    assert built[0] == built[1]


def test_any_candidate_of_a_run_is_built_from_its_folder(
    search: Content, cli: Cli, tmp_path: Path
) -> None:
    run = ended(search, tmp_path / "run")
    assert cli("build", run, tmp_path / "first", "--candidate", 1).returncode == 0
    built = load_file(tmp_path / "first" / "model.safetensors")
    source = load_file(tmp_path / "models" / "a" / "model.safetensors")  # the first baseline's
    assert all(built[name].equal(tensor) for name, tensor in source.items())
    assert "no candidate 99" in cli("build", run, tmp_path / "no", "--candidate", 99).stderr


def test_a_recipe_within_a_recipe_is_held_to_its_files(
    search: Content, cli: Cli, tmp_path: Path
) -> None:
    run = ended(search, tmp_path / "run")
    assert cli("export", run, "-o", tmp_path / "inner.yaml").returncode == 0
    outer = {
        "evomerge": 1,
        "base": search["base"],
        "sources": {"inner": "inner.yaml"},
        "operator": "linear",
        "dtype": "float32",
    }
    (tmp_path / "outer.yaml").write_text(yaml.safe_dump(outer))
    assert cli("build", tmp_path / "outer.yaml", tmp_path / "one").returncode == 0
    other_weights(tmp_path / "models" / "b" / "model.safetensors")
    refused = cli("build", tmp_path / "outer.yaml", tmp_path / "two")
    assert refused.returncode == 2
    assert f"remove the key files from {tmp_path}/inner.yaml" in refused.stderr


def test_files_that_are_no_digests_are_refused(search: Content, cli: Cli, tmp_path: Path) -> None:
    run = ended(search, tmp_path / "run")
    text = cli("export", run).stdout
    for wrong in ("files: 3", "files: {base: {weights: ''}}", "files: {base: [a]}"):
        path = tmp_path / "recipe.yaml"
        path.write_text(text[: text.index("files:")] + wrong + "\n")
        refused = cli("build", path, tmp_path / "out")
        assert refused.returncode == 2
        assert f"{path}: files: expected 16 or more hexadecimal digits" in refused.stderr


@pytest.mark.parametrize("touched", [True, False])
def test_a_build_whose_sources_change_meanwhile_leaves_nothing_behind(
    touched: bool, search: Content, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.weights import merge as merging

    run, file = ended(search, tmp_path / "run"), tmp_path / "models" / "a" / "model.safetensors"
    merge = merging.merge_into

    def changing(*arguments: Any) -> None:
        merge(*arguments)
        if touched:
            os.utime(file)
        else:
            other_weights(file, in_place=True)

    monkeypatch.setattr("evomerge.weights.build.merge_into", changing)
    done = cli("build", run, tmp_path / "out")
    assert (tmp_path / "out").exists() == touched
    assert done.returncode == (0 if touched else 1)
    assert touched or f"a: {file}: changed while it was in use." in done.stderr
    assert not list(tmp_path.glob(".out*"))


def test_a_worker_that_is_made_anew_has_the_same_code(
    search: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, code = tmp_path / "run", tmp_path / "models" / "code.py"
    kept = code.read_text()
    changed: list[int] = []

    def run_out_of_memory(worker: Worker, jobs: Any) -> Any:
        if any(job.number == 8 for job in jobs) and not changed:
            changed.append(8)
            code.write_text(kept + "\n# another one\n")
            worker.exhausted = True
        return evaluate_all(worker, jobs)

    evaluate_all = Worker.evaluate_all
    monkeypatch.setattr(Worker, "evaluate_all", run_out_of_memory)
    with pytest.raises(SourceChangedError, match="fitness or engine: their code"):
        start(load(search).search, run, lambda progress: None)
    assert changed
    code.write_text(kept)
    resume(load(search).search, run, lambda progress: None)
    assert len(results(run)) > 10


def test_a_source_that_changes_while_the_workers_open_is_no_start(
    search: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = tmp_path / "run", tmp_path / "models" / "a" / "model.safetensors"
    open_all = LocalExecutor.start

    def late(executor: LocalExecutor, setup: Any) -> None:
        other_weights(file)
        open_all(executor, setup)

    monkeypatch.setattr(LocalExecutor, "start", late)
    with pytest.raises(SourceChangedError, match=f"a: {file}: changed"):
        start(load(search).search, run, lambda progress: None)
    assert not run.exists()


def test_statistics_are_files_that_candidates_are_merged_from(
    search: Content, tmp_path: Path
) -> None:
    setup = load(search).search.setup
    folder = tmp_path / "statistics"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    recipe = setup.composition.model_copy(update={"statistics": {"a": str(folder)}})
    worker = Worker(setup)
    job = Job(0, recipe, "search")
    worker.require_unchanged([job])
    worker.require_unchanged([job])
    (folder / "manifest.json").write_text("{ }")
    with pytest.raises(SourceChangedError, match=r"manifest\.json: changed while it was in use"):
        worker.require_unchanged([job])
    worker.close()
    models = Library().models(setup.composition)
    key = model_inputs(models, {"a": str(folder)}).digests["statistics.a"]
    assert list(key) == ["manifest.json"]


def test_a_disk_that_cannot_be_looked_at_is_no_change_but_the_machines_fault(
    search: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", ended(search, tmp_path / "whole")

    def lose_the_mount() -> None:
        def scandir(path: Any) -> Any:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

        monkeypatch.setattr(os, "scandir", scandir)

    with pytest.raises(MachineError, match=r"Stale file handle.*then resume the run"):
        start(load(search).search, run, stopping_after(9, lose_the_mount))
    monkeypatch.undo()
    assert results(run) == results(whole)[: len(results(run))]
    resume(load(search).search, run, lambda progress: None)
    assert results(run) == results(whole)
