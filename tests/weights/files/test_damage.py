"""Small files of a model that cannot be read, and configs of which no model can be made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import InputError
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.files.damage import absurd_counts, template_fault
from evomerge.weights.library import Library

Tiny = Callable[..., Path]


@pytest.fixture
def base(tiny: Tiny, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny(), tmp_path / "base"))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m }}{% endfor %}")
    return folder


def said(base: Path, source: Path, out: Path) -> list[list[str]]:
    """What `build` and `check` say of the models; nothing where they take them."""
    recipe = Recipe(base=str(base), sources={"a": str(source)}, operator="linear", dtype="float32")
    found: list[list[str]] = []
    for task in (
        lambda: build(recipe, out),
        lambda: TransformersEngine().try_open(Library().models(recipe)),
    ):
        try:
            task()
            found.append([])
        except InputError as error:
            found.append(list(error.problems))
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("chat_template.jinja", "model.safetensors"),
    ],
)
@pytest.mark.parametrize("odd", ["a named pipe", "a folder"])
def test_what_is_no_file_is_named_and_not_waited_for(
    name: str, odd: str, base: Path, tiny: Tiny, tmp_path: Path
) -> None:
    (base / name).unlink()
    if odd == "a folder":
        (base / name).mkdir()
    else:
        os.mkfifo(base / name)
    for problems in said(base, tiny(1), tmp_path / "out"):
        (problem,) = problems
        assert problem.startswith(f"{base / name}: cannot be read: it is {odd}, not a file")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("generation_config.json", b'{"eos_token_id": 2,', "not valid JSON"),
        ("tokenizer_config.json", b"[" * 1000, "nested deeper than 100 levels"),
        ("tokenizer_config.json", b'{"pad_token": "caf\xe9"}', "cannot be read: not UTF-8 text"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}, "add', "not valid JSON"),
        ("tokenizer_config.json", b'{"chat_template": "{{ x"}', "not a chat template"),
        ("chat_template.jinja", b"{% for m in messages %}{{ m", "not a chat template"),
        ("chat_template.jinja", b"{{ \xff }}", "cannot be read: not UTF-8 text"),
        ("config.json", b'{"model_type": "llama", ', "not valid JSON"),
    ],
)
def test_files_that_are_cut_or_no_text_are_named(
    name: str, text: bytes, reason: str, base: Path, tiny: Tiny, tmp_path: Path
) -> None:
    (base / name).write_bytes(text)
    for problems in said(base, tiny(1), tmp_path / "out"):
        (problem,) = problems
        assert problem.startswith(f"{base / name}: {reason}")


@pytest.mark.parametrize(
    "config",
    [
        {"rms_norm_eps": 0},
        {"rms_norm_eps": "small"},
        {"num_attention_heads": 5},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 3},
        {"hidden_size": 64},
        {"hidden_size": None},
        {"hidden_size": 2**62},
        {"hidden_act": "no_such_act"},
        {"vocab_size": 41},
        {"head_dim": "8"},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"rope_parameters": 3},
        {"layer_types": ["no_such_kind"] * 3},
        {"num_hidden_layers": "3"},
        {"torch_dtype": "float31"},
        {"text_config": {"vocab_size": []}},
    ],
    ids=str,
)
def test_a_config_that_transformers_refuses_is_found_by_check_and_build(
    config: dict[str, Any], base: Path, tiny: Tiny, tmp_path: Path
) -> None:
    content = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(content | config))
    # which of them it is that Transformers refuses, it decides; both commands agree with it
    built, checked = said(base, tiny(1), tmp_path / "out")
    assert bool(built) == bool(checked)
    assert all(str(base) in p or "base" in p for p in (*built, *checked))
    if not built:
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_million_blocks_are_not_made(base: Path, tiny: Tiny, tmp_path: Path) -> None:
    content = json.loads((base / "config.json").read_text())
    for count, reason in ((10**9, "more than any model has"), (99_999, "a model of more than")):
        (base / "config.json").write_text(json.dumps(content | {"num_hidden_layers": count}))
        for problems in said(base, base, tmp_path / "out"):
            assert reason in problems[0]


def test_numbers_that_count_parts_are_told_from_others() -> None:
    part = {"num_experts": 10**7, "vocab_size": 10**6, "layer_norm_eps": 1e-5}
    config: dict[str, Any] = {
        "text_config": part,
        "n_layer": 1e300,
        "max_position_embeddings": 10**7,
    }
    config["num_heads"] = 10**400
    assert list(absurd_counts(config)) == [
        "text_config.num_experts: is 10000000, more than any model has",
        "n_layer: is 1e+300, more than any model has",
        "num_heads: is a number of more than 300 digits, more than any model has",
    ]


@pytest.mark.parametrize(
    ("text", "is_template"),
    [
        ("{% generation %}{{ x }}{% endgeneration %}", True),
        ("{% for m in ms %}{% break %}{% endfor %}", True),
        ("no tags", True),
        ("{{ x", False),
        ("{{ m[" + "9" * 5000 + "] }}", False),
        ("{{ " + "(" * 3000, False),
    ],
)
def test_templates_are_told_from_other_texts(text: str, is_template: bool) -> None:
    assert (template_fault(text) is None) == is_template
