from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.recipes.references import PICKLES, SAFETENSORS, left_out
from evomerge.weights.build import build
from evomerge.weights.files import small_files as rule
from evomerge.weights.files.model_code import model_code
from evomerge.weights.files.small_files import small_files
from evomerge.weights.library import Library

Tiny = Callable[..., Path]

CODE = {
    "configuration_mine.py": """
from transformers import LlamaConfig

class MineConfig(LlamaConfig):
    model_type = "mine"
""",
    "modeling_mine.py": """
from transformers import LlamaForCausalLM

from .configuration_mine import MineConfig
from .parts_mine import DOUBLED

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
    doubled = DOUBLED
""",
    "parts_mine.py": "from .more_mine import ONE\nDOUBLED = 2 * ONE\n",
    "more_mine.py": "ONE = 1\n",
    "train.py": "raise SystemExit\n",
}
AUTO_MAP = {
    "AutoConfig": "configuration_mine.MineConfig",
    "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
}


def recipe(base: Path, *sources: Path, **keys: Any) -> Recipe:
    named = {f"s{number}": str(source) for number, source in enumerate(sources, start=1)}
    settings = {"operator": "linear", "dtype": "float32", **keys}
    return Recipe.model_validate({"base": str(base), "sources": named, **settings})


def put(folder: Path, **contents: object) -> Path:
    """Write JSON, or text, under names in which ``__`` stands for ``/`` and ``_DOT_`` for a dot."""
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.fixture
def mine(tiny: Tiny, tmp_path: Path) -> Path:
    """A model with code of its own."""
    folder = tmp_path / "mine"
    shutil.copytree(tiny(), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": AUTO_MAP}
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in CODE.items():
        (folder / name).write_text(text)
    return folder


def test_a_model_with_code_of_its_own_loads_after_a_merge(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, dynamic_module_utils

    out = build(recipe(mine, mine), tmp_path / "out")
    assert {file.name for file in out.glob("*.py")} == set(CODE) - {"train.py"}
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        for folder in (mine, out)
    )
    assert type(after).__name__ == "MineForCausalLM"
    assert after.doubled == 2
    assert all(torch.equal(t, after.state_dict()[n]) for n, t in before.state_dict().items())


def test_the_code_of_a_model_is_never_run_and_is_named(mine: Path, tmp_path: Path) -> None:
    bomb = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for file in mine.glob("*.py"):
        file.write_text(bomb + file.read_text())
    one = recipe(mine, mine)
    notes = Library().models(one).notes
    out = build(one, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert f"- {notes[-1]}\n" in (out / "README.md").read_text("utf-8")
    assert notes == [
        "the merged model comes with Python of its models, which Transformers runs only with "
        "trust_remote_code=True: configuration_mine.py, modeling_mine.py, more_mine.py, "
        "parts_mine.py."
    ]


def test_code_that_is_elsewhere_or_missing_is_named(mine: Path) -> None:
    (mine / "more_mine.py").unlink()
    config = json.loads((mine / "config.json").read_text())
    config["auto_map"] |= {"AutoModel": "org/other--modeling_other.Other", "AutoX": "gone.X"}
    config["vision_config"] = {"auto_map": {"AutoConfig": "seeing.Config"}}
    config["custom_pipelines"] = {"mine": {"impl": "piping.Pipe", "pt": ["AutoModel"]}}
    put(mine, config_DOT_json=config)
    put(mine, tokenizer_config_DOT_json={"auto_map": {"AutoTokenizer": ["slow.S", None]}})
    notes = "\n".join(model_code(mine).notes)
    assert "names code of org/other, which is not copied" in notes
    for by, name in (("parts_mine.py", "more_mine"), ("config.json", "gone")):
        assert f"{by} names {name}.py, which is not there" in notes
    for name in ("seeing", "piping", "slow"):
        assert f"names {name}.py" in notes


@pytest.mark.parametrize("module", ["../evil.X", "/etc/evil.X", "sub/../../evil.X", 3, None, ""])
def test_a_config_names_no_code_outside_of_its_folder(tmp_path: Path, module: object) -> None:
    (tmp_path / "evil.py").write_text("")
    folder = put(tmp_path / "model", config_DOT_json={"auto_map": {"AutoModel": module}})
    assert model_code(folder).files == ()
    put(folder, config_DOT_json={"auto_map": {"A": "a.A"}}, a_DOT_py="from ...evil import x\n")
    assert set(small_files(folder).files) == {"a.py", "config.json"}


def test_packages_and_files_of_a_stranger_s_syntax_are_read(tmp_path: Path) -> None:
    folder = put(
        *(tmp_path,),
        config_DOT_json={"auto_map": {"A": "a.A"}},
        a_DOT_py="from . import b, VERSION\nfrom .sub.c import x\n",
        b_DOT_py=r"text = '\d' is 'x'",
        sub____init___DOT_py="",
        sub__c_DOT_py="from ..d import y\nfrom . import e",
        d_DOT_py="def (",
    )
    (tmp_path / "sub" / "e.py").write_text("")
    assert model_code(folder).files == ("a.py", "b.py", "d.py", "sub/c.py", "sub/e.py")
    assert {"sub/c.py", "sub/e.py"} <= set(small_files(folder).files)


def test_a_tokenizer_with_code_brings_it_along(tiny: Tiny, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny(1), other)
    config = json.loads((other / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": [None, "reading.Reader"]}
    put(other, tokenizer_config_DOT_json=config, reading_DOT_py="", unread_DOT_py="")
    out = build(recipe(tiny(), other, tokenizer={"source": "s1"}), tmp_path / "out")
    assert [file.name for file in out.glob("*.py")] == ["reading.py"]
    base = tmp_path / "base"
    shutil.copytree(tiny(), base)
    put(base, reading_DOT_py="x = 1")
    put(base, config_DOT_json=json.loads((base / "config.json").read_text()) | {"auto_map": {}})
    assert Library().models(recipe(base, other, tokenizer={"source": "s1"})).notes
    put(base, processor_config_DOT_json={"auto_map": {"AutoProcessor": "reading.Reader"}})
    with pytest.raises(PlanError, match=r"needs reading.py, which differs from that of .*base"):
        Library().models(recipe(base, other, tokenizer={"source": "s1"}))


def test_layers_of_sentence_transformers_are_copied_whole(tiny: Tiny, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny(), base)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "own_layer.Dense"},
        *({"path": path, "type": "x.X"} for path in ("..", "/etc", "gone", 3)),
    ]
    put(
        base,
        modules_DOT_json=modules,
        own_layer_DOT_py="",
        config_sentence_transformers_DOT_json={"prompts": {"query": "query: "}},
        sentence_bert_config_DOT_json={"max_seq_length": 512},
    )
    put(base / "1_Pooling", config_DOT_json={"pooling_mode_mean_tokens": True})
    put(base / "2_Dense", config_DOT_json={"in_features": 2})
    save_file({"linear.weight": torch.eye(2)}, base / "2_Dense" / "model.safetensors")
    out = build(recipe(base, tiny(1)), tmp_path / "out")
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        assert (out / name).read_text() == (base / name).read_text()
    for name in ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert (out / "own_layer.py").exists()
    notes = Library().models(recipe(base, tiny(1))).notes
    assert any("2_Dense is copied with its weights: a merge has no part" in note for note in notes)


def test_the_rule_takes_what_is_small_and_no_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    taken = ["LICENSE", "NOTICE", "USE_POLICY.md", "config.json", "vocab.txt", "params.yaml"]
    taken += ["assets/table.csv"]
    left = ["README.md", "ReadMe.txt", "model.safetensors", "a.bin", "A.PT", "x.gguf", "w.onnx"]
    left += ["model.safetensors.index.json", "trainer_state.json", "eval_results.json", "train.log"]
    left += [".gitattributes", ".git/config", ".cache/x.json", "stray.py", "events.out.tfevents.1"]
    left += ["mergekit_config.yml", "openvino_model.xml"]
    left += ["checkpoint-5/config.json", "checkpoint-5/model.safetensors", "onnx/config.json"]
    left += ["onnx/w.onnx", "a/b/deep.json", "__pycache__/stray.cpython-311.pyc"]
    for name in (*taken, *left):
        put(folder, **{name.replace("/", "__").replace(".", "_DOT_"): "{}"})
    (folder / "empty").mkdir()
    assert set(small_files(folder).files) == set(taken)
    (folder / "config.json").unlink()  # then it may be any folder
    assert set(small_files(folder).files) == set(taken) - {"config.json", "assets/table.csv"}


def test_what_is_too_big_or_no_regular_file_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule, "SMALL_BYTES", 5)
    folder = put(tmp_path / "model", small_DOT_txt="12345", big_DOT_txt="123456")
    os.mkfifo(folder / "fifo.json")
    found = small_files(folder)
    assert set(found.files) == {"small.txt"}
    assert found.notes == (f"{folder}/big.txt: is left out: it has 6 bytes, 5 at most count.",)


def test_links_count_that_end_in_a_model_or_in_the_hub_s_cache(tmp_path: Path) -> None:
    secret = put(tmp_path / "home", id_rsa="secret") / "id_rsa"
    other = put(tmp_path / "other", vocab_DOT_txt="v", model_DOT_safetensors="")
    blob = put(tmp_path / "hub" / "blobs", abc="{}") / "abc"
    folder = put(tmp_path / "hub" / "snapshots" / "1", plain_DOT_txt="p")
    for name, target in {
        "inside.txt": folder / "plain.txt",
        "vocab.txt": other / "vocab.txt",
        "config.json": blob,
        "notes.txt": secret,
        "gone.txt": tmp_path / "gone",
    }.items():
        (folder / name).symlink_to(target)
    (folder / "linked").symlink_to(tmp_path / "home")
    found = small_files(folder)
    assert set(found.files) == {"config.json", "inside.txt", "plain.txt", "vocab.txt"}
    assert [str(secret) in note for note in found.notes] == [True]


def test_the_hub_is_asked_for_small_files_and_one_form_of_weights() -> None:
    wanted = ["model-00001-of-00002.safetensors", "config.json", "LICENSE", "modeling.py"]
    wanted += ["1_Pooling/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"]
    wanted += ["additional_chat_templates/rag.jinja", "source.spm", "normalizer.json"]
    left = ["pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx", "x.gguf"]
    left += ["checkpoint-5/model.safetensors", "figures/a.png", "original/consolidated.00.pth"]
    assert [
        n for n in (*wanted, *left) if not any(fnmatch(n, p) for p in left_out(SAFETENSORS))
    ] == wanted
    pickles = [n for n in left if not any(fnmatch(n, p) for p in left_out(PICKLES))]
    assert pickles == ["pytorch_model.bin"]
