from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from evomerge import __version__
from evomerge.errors import CandidateError, CheckpointError, InputError, OutputError, PlanError
from evomerge.recipes import Recipe
from evomerge.recipes.yaml import to_yaml
from evomerge.weights.build import build, model_card
from evomerge.weights.output.folders import new_folder

Tiny = Callable[..., Path]
TOKENS = torch.arange(4, 24)[None]


def recipe(base: Path, *sources: Path | Recipe, **keys: Any) -> Recipe:
    named = {
        f"s{number}": source if isinstance(source, Recipe) else str(source)
        for number, source in enumerate(sources, start=1)
    }
    settings = {"operator": "linear", "dtype": "float32", **keys}
    return Recipe.model_validate({"base": str(base), "sources": named, **settings})


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load(folder)(TOKENS).logits
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_transformers_loads_what_was_built_without_a_warning(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: str, tied: bool
) -> None:
    base, source = tiny(tied=tied, dtype="bfloat16"), tiny(1, tied=tied, dtype="bfloat16")
    out = build(recipe(base, source, dtype=dtype), tmp_path / "out")
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)  # it does not propagate
    try:
        model = load(out)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.records == []
    assert model.dtype == getattr(torch, dtype)
    assert model.config.tie_word_embeddings is tied
    expected = load(source).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype))


@pytest.mark.parametrize("shard_bytes", [20_000, 10**9])
def test_shards_load_like_one_file(tiny: Tiny, tmp_path: Path, shard_bytes: int) -> None:
    out = build(recipe(tiny(), tiny(1)), tmp_path / "out", shard_bytes=shard_bytes)
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shard_bytes < 10**6)
    assert torch.equal(logits(out), logits(tiny(1)))


def test_a_recipe_file_builds_the_same_as_the_recipe_in_it(tiny: Tiny, tmp_path: Path) -> None:
    one = recipe(tiny(), tiny(1))
    (tmp_path / "recipe.yaml").write_text(to_yaml(one))
    expected = files(build(one, tmp_path / "out", title="merge"))
    from_path = build(tmp_path / "recipe.yaml", tmp_path / "from path", title="merge")
    from_text = build(str(tmp_path / "recipe.yaml"), str(tmp_path / "from text"), title="merge")
    assert files(from_path) == files(from_text) == expected


@pytest.mark.parametrize("base_tied", [False, True])
def test_a_tied_and_an_untied_model_compute_the_same_function_when_merged(
    tiny: Tiny, tmp_path: Path, base_tied: bool
) -> None:
    """One-hot weights pick one of the two, whose logits must come out exactly."""
    base, source = tiny(tied=base_tied), tiny(1, tied=not base_tied)
    for weight in ({"s1": 1.0, "s2": 0.0}, {"s1": 0.0, "s2": 1.0}):
        mixed = recipe(base, base, source, parameters={"weight": weight})
        out = build(mixed, tmp_path / f"out-{weight['s1']:g}")
        chosen = base if weight["s1"] else source
        assert torch.equal(logits(out), logits(chosen))
        assert load(out).config.tie_word_embeddings is False


@pytest.mark.parametrize("source_tied", [False, True])
def test_whether_a_model_is_tied_is_always_written_to_its_config(
    tiny: Tiny, tmp_path: Path, source_tied: bool
) -> None:
    """Llama's default is untied, though this base is tied: a silent config must not decide."""
    silent = tmp_path / "silent"
    shutil.copytree(tiny(tied=True), silent)
    config = json.loads((silent / "config.json").read_text())
    del config["tie_word_embeddings"]
    (silent / "config.json").write_text(json.dumps(config))
    out = build(recipe(silent, tiny(1, tied=source_tied)), tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is source_tied
    assert torch.equal(logits(out), logits(tiny(1, tied=source_tied)))


def test_the_tokenizer_gives_the_same_tokens_and_text(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    out = build(recipe(tiny(), tiny(1)), tmp_path / "out")
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (tiny(), out))
    text = "w0 w35 nonsense w7 <s>"
    assert before(text) == after(text)
    assert before.decode(before(text)["input_ids"]) == after.decode(after(text)["input_ids"])
    assert before.special_tokens_map == after.special_tokens_map


def test_what_belongs_to_a_model_is_copied_and_nothing_else(tiny: Tiny, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny(), base)
    (base / "additional_chat_templates").mkdir()
    wanted = ["chat_template.jinja", "additional_chat_templates/tools.jinja", "merges.txt"]
    wanted += ["LICENSE", "normalizer.json"]
    for name in (*wanted, "handler.py", "optimizer.bin", ".secrets", "README.md"):
        (base / name).write_text(name)
    out = build(recipe(base, tiny(1)), tmp_path / "out", title="A title")
    assert set(files(out)) == {
        *wanted,
        *("config.json", "model.safetensors", "README.md", "generation_config.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert (out / "README.md").read_text("utf-8") != "README.md"


def test_an_adapter_whose_tokenizer_is_taken_has_the_generation_config_of_its_base(
    tiny: Tiny, made: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = shutil.copytree(made(tiny()), tmp_path / "adapter")
    keys = {"base": str(tiny()), "sources": {"a": str(adapter)}, "operator": "linear"}
    one = Recipe.model_validate(keys | {"dtype": "float32", "tokenizer": "a"})
    name = "generation_config.json"
    out = build(one, tmp_path / "of_base")
    assert (out / name).read_bytes() == (tiny() / name).read_bytes()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny() / file, adapter)
    out = build(one, tmp_path / "with_tokenizer")
    assert (out / name).read_bytes() == (tiny() / name).read_bytes()
    (adapter / name).write_text('{"eos_token_id": 3}')
    out = build(one, tmp_path / "own")
    assert (out / name).read_text() == '{"eos_token_id": 3}'


def test_building_twice_gives_the_same_bytes(tiny: Tiny, tmp_path: Path) -> None:
    random = recipe(tiny(), tiny(1), tiny(2), operator="dare_ties", parameters={"density": 0.5})
    one = build(random, tmp_path / "one" / "model", shard_bytes=20_000)
    two = build(random, tmp_path / "two" / "model", shard_bytes=20_000)
    assert files(one) == files(two)


@pytest.mark.parametrize(
    ("operator", "weight", "digest"),
    [
        ("linear", (0.5, 0.5), "741bf291dfe11609bdc42983f23e8ef19a0b01cc297bfd4073f6039dae6430dc"),
        (
            *("task_arithmetic", (0.5, 0.25)),
            "442b6b0101de4924d8b7654211a58130ec0eb053618a142faa5bfc20db635e65",
        ),
    ],
)
def test_the_bytes_of_a_build_are_those_that_it_always_had(
    zoo: Path, tmp_path: Path, operator: str, weight: tuple[float, float], digest: str
) -> None:
    """SHA-256 of files whose every number was that of the formula in float64, rounded once."""
    weights = dict(zip(("s1", "s2"), weight, strict=True))
    keys: dict[str, Any] = {"operator": operator, "parameters": {"weight": weights}}
    sources = [zoo / name for name in ("arithmetic", "strings")]
    out = build(recipe(zoo / "base", *sources, dtype="bfloat16", **keys), tmp_path / "out")
    assert hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest() == digest


def test_config_keys_that_a_merge_changes(tiny: Tiny, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny(), base)
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    config |= {"torch_dtype": "float16", "_name_or_path": "/home/someone/model"}
    config |= {"vision_config": {"dtype": "float16", "depth": 2}, "name": "数学"}
    (base / "config.json").write_text(json.dumps(config))
    out = build(recipe(base, tiny(1), dtype="bfloat16"), tmp_path / "out")
    expected = {k: v for k, v in config.items() if k not in ("torch_dtype", "_name_or_path")}
    expected |= {"dtype": "bfloat16", "vision_config": {"dtype": "bfloat16", "depth": 2}}
    assert json.loads((out / "config.json").read_text("utf-8")) == expected


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_what_is_there_already_is_not_touched(tiny: Tiny, tmp_path: Path, taken: str) -> None:
    out = tmp_path / "out"
    inside = out
    if taken == "folder":
        out.mkdir()
        inside = out / "precious"
    inside.write_text("precious")
    with pytest.raises(InputError, match=r"exists already. Choose another folder, or delete it"):
        build(recipe(tiny(), tiny(1)), out)
    assert inside.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [out]


def test_an_empty_folder_is_filled(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert (build(recipe(tiny(), tiny(1)), tmp_path / "out") / "config.json").exists()


def test_a_failure_leaves_nothing_behind(tiny: Tiny, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny(1), damaged)
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, damaged / "model.safetensors")
    huge = {"weight": 1e30, "normalize": False}
    failures: list[tuple[Recipe, type[Exception]]] = [
        (recipe(tiny(), damaged), CheckpointError),
        (recipe(tiny(), tiny(1), dtype="float16", parameters=huge), CandidateError),
        (recipe(tiny(), tiny(1, num_hidden_layers=4)), PlanError),
    ]
    place = tmp_path / "place"
    place.mkdir()
    for failing, error in failures:
        for out in (place / "out", place / "new" / "and" / "deep"):
            with pytest.raises(error):
                build(failing, out, shard_bytes=20_000)
        assert list(place.iterdir()) == []


def test_too_little_room_is_noticed_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OutputError, match=r"needs [0-9]+ bytes, the disk has 10000 free"):
        build(recipe(tiny(), tiny(1)), tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_output_error(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written: (Not a directory|File exists)"):
        build(recipe(tiny(), tiny(1)), tmp_path / "file" / "out")


def test_the_zoo_builds_and_loads(zoo: Path, tmp_path: Path) -> None:
    sources = [zoo / name for name in ("arithmetic", "strings", "kanji")]
    out = build(recipe(zoo / "base", *sources, operator="ties", dtype="bfloat16"), tmp_path / "zoo")
    assert logits(out).isfinite().all()
    assert "It stacks" not in (out / "README.md").read_text("utf-8")


# the model card


def test_the_card_has_metadata_that_the_hub_accepts(tiny: Tiny, tmp_path: Path) -> None:
    out = build(recipe(tiny(), tiny(1), tiny(2)), tmp_path / "my merge")
    card = ModelCard.load(out / "README.md")
    assert card.data.to_dict() == {
        **{"library_name": "transformers", "pipeline_tag": "text-generation"},
        "tags": ["merge", "evomerge"],
    }
    assert "\n# my merge\n" in card.text
    assert "A merge of 2 sources with the operator `linear`" in card.text


def test_the_card_names_hub_models_once_and_without_revision() -> None:
    merged = Recipe(
        base="org/base@refs/pr/1",
        sources={"a": "org/a@main", "数学": "org/base@refs/pr/1", "local": "/models/b"},
        operator="slerp",
        dtype="bfloat16",
    )
    card = ModelCard(model_card(merged, "title"))
    assert card.data.get("base_model") == ["org/base", "org/a"]
    assert card.data.get("base_model_relation") == "merge"
    assert "| 数学 | `org/base@refs/pr/1` |" in card.text


def test_the_recipe_on_the_card_is_the_recipe(tiny: Tiny, tmp_path: Path) -> None:
    import yaml

    from evomerge.recipes.yaml import from_yaml

    parameters = {"weight": {"s1": [0.1, 0.2, 0.3], "s2": 0.7}}
    merged = recipe(tiny(), tiny(1), tiny(2), parameters=parameters)
    text = model_card(merged, "title").split("```yaml\n")[1].split("```")[0]
    assert from_yaml(yaml.safe_load(text), "card").digest == merged.digest


# slices


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found


def test_a_stack_of_slices_loads_and_runs(tiny: Tiny, tmp_path: Path) -> None:
    slices = [{"s1": [0, 2]}, {"s2": [0, 4]}]
    stacked = recipe(tiny(), tiny(1), tiny(2, num_hidden_layers=4), slices=slices)
    out = build(stacked, tmp_path / "out")
    assert config_of(out)["num_hidden_layers"] == 6
    assert load(out).config.num_hidden_layers == 6
    assert logits(out).isfinite().all()


def test_a_stack_of_the_same_blocks_computes_the_same(tiny: Tiny, tmp_path: Path) -> None:
    slices = [{"s1": [0, 1]}, {"s1": [1, 3]}]
    out = build(recipe(tiny(), tiny(1), slices=slices), tmp_path / "out")
    assert torch.equal(logits(out), logits(tiny(1)))


def test_what_a_config_says_of_each_block_follows_the_block(tiny: Tiny, tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "chunked_attention"]
    folders = []
    for seed, turned in ((0, kinds), (1, kinds[::-1])):
        folder = tmp_path / f"model-{seed}"
        shutil.copytree(tiny(seed), folder)
        config = config_of(folder) | {
            **{"layer_types": turned, "mlp_only_layers": [seed], "eos_token_id": [1, 2, 3]},
            "model_type": "unheard_of",
            "text_config": {"num_hidden_layers": 3, "layer_types": turned},
        }
        (folder / "config.json").write_text(json.dumps(config))
        folders.append(folder)
    slices = [{"base": [0, 3], "s1": [0, 3]}, {"s1": [1, 3]}]
    out = config_of(build(recipe(*folders, slices=slices), tmp_path / "out"))
    for part in (out, out["text_config"]):
        assert part["layer_types"] == [*kinds, *kinds[1::-1]]
        assert part["num_hidden_layers"] == 5
    assert out["mlp_only_layers"] == [0, 3]
    assert out["eos_token_id"] == [1, 2, 3]


# recipes in place of models


@pytest.mark.parametrize(
    ("slices", "scales", "line"),
    [
        ([], [], ""),
        ([{"a": [3, 4]}], [], "It stacks 1 block: 1 of `a`.\n"),
        (
            [{"a": [0, 3]}, {"b": [1, 2]}, {"a": [1, 4]}],
            [1, 1, 1, 0.5, 1, 1, 1],
            "It stacks 7 blocks: 6 of `a` (4 different ones) and 1 of `b`. "
            "The stream between them is scaled.\n",
        ),
        (
            [{"base": [0, 2], "a": [0, 2], "b": [2, 4]}, {"a": [1, 2]}, {"b": [1, 2]}],
            [],
            "It stacks 4 blocks: 2 merged of `base`, `a` and `b`, 1 of `a` and 1 of `b`.\n",
        ),
    ],
)
def test_the_card_says_how_many_blocks_of_which_models_are_stacked(
    slices: list[Any], scales: list[float], line: str
) -> None:
    keys: dict[str, Any] = {"operator": "linear", "dtype": "bfloat16", "slices": slices}
    stacked = Recipe(
        base="org/base", sources={"a": "org/a", "b": "org/b"}, scales=tuple(scales), **keys
    )
    said = model_card(stacked, "title").split(f"by evomerge {__version__}.\n")[1]
    assert said.startswith(f"{line}The recipe below rebuilds")


def test_the_card_names_the_models_of_recipes_within(tiny: Tiny) -> None:
    inner = Recipe(base="org/base", sources={"x": "org/x"}, operator="slerp", dtype="float16")
    whole = Recipe(
        base=inner, sources={"a": "org/a@main", "b": inner}, operator="ties", dtype="bfloat16"
    )
    card = ModelCard(model_card(whole, "title"))
    assert card.data.get("base_model") == ["org/base", "org/x", "org/a"]
    assert "| (base) | a merge with `slerp` of `org/base`, `org/x` |" in card.text
    assert "| a | `org/a@main` |" in card.text


def test_the_card_of_a_nested_recipe_rebuilds_it(tiny: Tiny, tmp_path: Path) -> None:
    import yaml

    from evomerge.recipes.yaml import from_yaml

    inner = recipe(tiny(), tiny(1), tokenizer="union", chat_template="chatml")
    whole = recipe(tiny(), inner, slices=[{"s1": [0, 2]}], modules=["model.layers"])
    out = build(whole, tmp_path / "out")
    text = (out / "README.md").read_text("utf-8").split("```yaml\n")[1].split("```")[0]
    assert from_yaml(yaml.safe_load(text), "card").digest == whole.digest


def test_what_a_merge_leaves_out_is_printed_and_kept_in_the_card(
    tiny: Callable[..., Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    source = Path(shutil.copytree(tiny(1), tmp_path / "source"))
    save_file({"exp_avg": torch.ones(3)}, source / "optimizer.safetensors")
    keys = {"base": str(tiny()), "sources": {"a": str(source)}, "operator": "linear"}
    recipe = Recipe.model_validate(keys | {"dtype": "float32"})
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    done = cli("build", tmp_path / "recipe.yaml", tmp_path / "out")
    note = (
        f"a: optimizer.safetensors in {source}: not read, the model's weights are in "
        "model.safetensors."
    )
    assert (done.returncode, done.stderr) == (0, f"note: {note}\n")
    assert (tmp_path / "out" / "README.md").read_text().endswith(f"## Notes\n\n- {note}\n")


def test_tensors_that_become_zero_are_a_note(tiny: Tiny, tmp_path: Path) -> None:
    weight = {"mlp": 0.0, "other": 1.0}
    recipe = Recipe(
        base=str(tiny()),
        sources={"a": str(tiny(1)), "b": str(tiny(2))},
        operator="linear",
        parameters={"weight": weight},
        dtype="float32",
    )
    notes: list[str] = []
    build(recipe, tmp_path / "out", tell=notes.append)
    first, second, third = (
        f"model.layers.0.mlp.{name}_proj.weight" for name in ("down", "gate", "up")
    )
    assert notes == [
        f"parameters.weight: 0 for all sources in {first}, {second}, {third} and 6 more, which "
        "become 0."
    ]


def test_a_model_of_zeros_is_a_mistake_in_the_recipe(
    tiny: Tiny, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    keys = {"base": str(tiny()), "sources": {"a": str(tiny(1))}, "operator": "linear"}
    recipe = Recipe.model_validate(keys | {"dtype": "float32", "parameters": {"weight": 0.0}})
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    done = cli("build", tmp_path / "recipe.yaml", tmp_path / "out")
    assert done.returncode == 2
    assert "linear gives a model of zeros" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_a_killed_build_left_is_removed_by_the_next(tiny: Tiny, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial-abandoned"
    living, other = tmp_path / ".out.partial-living", tmp_path / ".out2.partial-abandoned"
    for folder in (left, living, other):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".out.partial-link").symlink_to(other)
    held = os.open(living, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)  # as the process that writes it
    try:
        build(recipe(tiny(0), tiny(1)), tmp_path / "out")
    finally:
        os.close(held)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out", living.name, other.name, ".out.partial-link"}
    assert (living / "model.safetensors").read_bytes() == b"half"


def test_two_builds_of_one_name_do_not_disturb_each_other(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as first:
        with (
            pytest.raises(OutputError, match="cannot be written"),
            new_folder(tmp_path / "out") as second,
        ):
            (first / "a").write_text("1")
            (second / "b").write_text("2")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "taken").touch()
        shutil.rmtree(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
