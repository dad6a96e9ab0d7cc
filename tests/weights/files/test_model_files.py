from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import SourceChangedError
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.file_names import is_of_tokenizer, is_unrelated
from evomerge.weights.files.model_files import ModelFiles, file_digest
from evomerge.weights.inputs import Inputs
from evomerge.weights.library import Library

Tiny = Callable[..., Path]
Change = Callable[[Path], object]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny model with a file of every kind."""
    copy = shutil.copytree(tiny(), tmp_path / "model")
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    (copy / "modeling_own.py").write_text("x = 1")
    config(auto_map={"AutoModel": "modeling_own.Own"})(copy)
    (copy / "spiece.model").write_bytes(b"\0\1")
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")
    return copy


def rewritten(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b" 1")


def config(**keys: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))

    return change


def swapped(folder: Path) -> None:
    """Other weights of the same size take the place of the file."""
    tensors = {n: t * 2 for n, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "new", metadata={"format": "pt"})
    (folder / "new").replace(folder / "model.safetensors")


def overwritten(folder: Path) -> None:
    """One byte of the weights changes in place, and the time of change is set back."""
    path = folder / "model.safetensors"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, tuple[Change, str, str]] = {
    "rope": (config(rope_theta=1.0), "config.json", "changed"),
    "generation": (rewritten("generation_config.json"), "generation_config.json", "changed"),
    "tokenizer": (rewritten("tokenizer.json"), "tokenizer.json", "changed"),
    "its config": (rewritten("tokenizer_config.json"), "tokenizer_config.json", "changed"),
    "template": (rewritten("chat_template.jinja"), "chat_template.jinja", "changed"),
    "vocabulary": (rewritten("spiece.model"), "spiece.model", "changed"),
    "code": (rewritten("modeling_own.py"), "modeling_own.py", "changed"),
    "another template": (
        rewritten("additional_chat_templates/tool.jinja"),
        "additional_chat_templates/tool.jinja",
        "changed",
    ),
    "overwritten": (overwritten, "model.safetensors", "changed"),
    "swapped": (swapped, "model.safetensors", "changed"),
    "cut": (
        lambda folder: os.truncate(folder / "model.safetensors", 5000),
        "model.safetensors",
        "changed, and cannot be read any more,",
    ),
    "gone": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json", "was removed"),
    "added": (
        lambda f: (f / "added_tokens.json").write_text("{}"),
        "added_tokens.json",
        "was added",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_of_any_file_that_scores_depend_on_is_noticed(case: str, folder: Path) -> None:
    change, name, what = CHANGES[case]
    model = Checkpoint(folder)
    before = model.digests
    assert model.changed_files() == []
    change(folder)
    assert model.changed_files() == [f"{folder / name}: {what} while it was in use."]
    if case != "cut":
        now = Checkpoint(folder).digests
        own = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
        assert own - {"weights"} == {name}
        assert ("weights" in own) == name.endswith(".safetensors")


def spaced_out(folder: Path) -> None:
    path = folder / "config.json"
    keys = json.loads(path.read_text())
    shuffled = {"_name_or_path": "/elsewhere", **dict(reversed(keys.items()))}
    path.write_text(json.dumps({**shuffled, "transformers_version": "9"}, indent=8))


def copied_over(folder: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(folder / name, folder.parent / "copy")
        (folder.parent / "copy").replace(folder / name)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: os.utime(folder / "model.safetensors"),
        lambda folder: (folder / "README.md").write_text("# read me"),
        lambda folder: (folder / "all_results.json").write_text("{}"),
        lambda folder: (folder / "labels.json").write_text("[1]"),
        lambda folder: (folder / "train.py").write_text("x = 2"),
        spaced_out,
        copied_over,
    ],
    ids=["touched", "text", "results", "data", "code of its training", "spaces", "copied"],
)
def test_what_says_the_same_is_no_change(change: Change, folder: Path) -> None:
    model = Checkpoint(folder)
    before, tensor = model.digests, model.read("model.norm.weight")
    change(folder)
    assert model.changed_files() == []
    assert Checkpoint(folder).digests == before
    assert model.read("model.norm.weight").equal(tensor)


def test_every_model_that_changed_is_named_and_what_to_do(tiny: Tiny, tmp_path: Path) -> None:
    base, math = (shutil.copytree(tiny(seed), tmp_path / f"m{seed}") for seed in (0, 1))
    models = Library().open(str(base), {"math": str(math)})
    models.require_unchanged()
    config(rope_theta=1.0)(base)
    swapped(math)
    with pytest.raises(SourceChangedError) as refused:
        models.require_unchanged()
    assert str(refused.value).splitlines() == [
        f"base: {base}/config.json: changed while it was in use.",
        f"math: {math}/model.safetensors: changed while it was in use.",
        "Put the files back as they were; a run then goes on with evomerge resume.",
    ]


def test_an_adapter_has_the_files_of_its_own_folder(
    tiny: Tiny, made: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = shutil.copytree(made(tiny()), tmp_path / "adapter")
    models = Library().open(str(tiny()), {"math": str(adapter)})
    files = models.sources["math"].digests
    assert {"weights", "adapter_config.json", "adapter_model.safetensors"} <= files.keys()
    rewritten("adapter_config.json")(adapter)
    with pytest.raises(SourceChangedError, match=r"math: .*adapter_config.json: changed"):
        models.require_unchanged()


def test_a_source_cut_under_its_mapping_is_a_sentence(folder: Path) -> None:
    model = Checkpoint(folder)
    name = list(model.tensors)[-1]
    model.read(name)
    size = (folder / "model.safetensors").stat().st_size
    os.truncate(folder / "model.safetensors", 100)
    with pytest.raises(
        SourceChangedError, match=f"has 100 bytes, and had {size} when it was opened"
    ):
        model.read(name)


def test_nothing_is_read_where_nothing_was_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ModelFiles(folder)
    assert files.digests
    monkeypatch.setattr(Path, "open", None)  # would fail
    assert files.changes() == []


def test_every_vocabulary_file_that_transformers_knows_counts(tmp_path: Path) -> None:
    import re
    from importlib.util import find_spec

    spec = find_spec("transformers")
    assert spec and spec.origin
    text = "".join(
        file.read_text() for file in Path(spec.origin).parent.glob("models/*/tokenization_*.py")
    )
    blocks = re.findall(r"VOCAB_FILES_NAMES\s*=\s*\{(.*?)\}", text, re.DOTALL)
    names = {name for block in blocks for name in re.findall(r':\s*"([^"]+)"', block)}
    assert len(names) > 20
    for name in names:
        (tmp_path / name).write_text("{}")
    assert ModelFiles(tmp_path).digests.keys() == names
    assert all(is_of_tokenizer(name) and not is_unrelated(name) for name in names)


def test_a_digest_of_a_file_that_is_no_json_is_that_of_its_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "a_config.json", tmp_path / "b_config.json"
    one.write_text("{")
    two.write_text("{ ")
    assert file_digest(one) != file_digest(two)


def test_a_fingerprint_is_the_one_that_runs_of_0_3_0_recorded(zoo: Path) -> None:
    assert Checkpoint(zoo / "base").fingerprint == (
        "aaf7f94fe09a3f6f6042202f6445b0bff3f88d0670aeed85e4e366a455aaaa2a"
    )


def test_a_byte_between_two_samples_of_a_fingerprint_is_noticed_in_the_same_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(1 << 17)}, file)  # 512 KiB
    model = Checkpoint(tmp_path)
    before = Inputs({"base": model.digests}, {"base": tmp_path})
    with file.open("r+b") as opened:
        opened.seek(-100_000, os.SEEK_END)
        opened.write(b"!")
    assert Checkpoint(tmp_path).fingerprint == model.fingerprint
    assert model.changed_files() == [f"{file}: changed while it was in use."]
    now = Inputs({"base": Checkpoint(tmp_path).digests}, {"base": tmp_path})
    assert now.differences(before.digests) == [f"base: {file}: has changed"]


def test_tensors_stored_in_another_order_are_the_same_file(tmp_path: Path) -> None:
    one, two = torch.zeros(4), torch.ones(8, dtype=torch.float64)
    files = []
    for name, tensors in (("a", {"x": one, "y": two}), ("b", {"x": one, "y": two})):
        (tmp_path / name).mkdir()
        metadata = {"format": "pt", "made": "elsewhere"} if name == "b" else None
        save_file(tensors, tmp_path / name / "model.safetensors", metadata=metadata)
        files.append(ModelFiles(tmp_path / name).digests)
    assert files[0] == files[1]
