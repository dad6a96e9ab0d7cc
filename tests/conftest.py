"""Fixtures that several folders of tests share: tiny checkpoints made on the spot, and the zoo."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Before anything imports torch or huggingface_hub; for the processes that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # at this size threads only wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

_STATE = tempfile.TemporaryDirectory(prefix="evomerge-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name  # which runs are trusted is kept there

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "experiments" / "zoo"
WORDS = ("<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(36)))

TinyFactory = Callable[..., Path]
LONGEST = ("ray", "vllm")  # groups of files that share what is opened once


class Done(NamedTuple):
    """What became of a command: its exit code, and all that it wrote."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def cli() -> Callable[..., Done]:
    """Runs ``evomerge`` with these words, in this process; see `run_cli`."""
    return run_cli


def run_cli(*words: object, cwd: Path = ROOT) -> Done:
    """A command and how it ends, without the seconds that a process of its own takes to import.

    Args:
        words: as typed after ``evomerge``.
        cwd: the working folder meanwhile.
    """
    from evomerge.cli.app import _run  # main() less the signals, which belong to pytest here

    out, talk, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
        patch.setattr(sys, "argv", ["evomerge", *map(str, words)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(talk):
            try:
                _run()
            except SystemExit as end:
                assert end.code is None or isinstance(end.code, int)
                code = end.code or 0
    return Done(code, out.getvalue(), talk.getvalue())


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every file, or group of files, to one worker as a whole, the longest ones first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            file = item.path.relative_to(ROOT / "tests").with_suffix("")
            item.add_marker(pytest.mark.xdist_group(str(file)))
    items.sort(key=lambda item: _rank(item.get_closest_marker("xdist_group")))


def _rank(group: pytest.Mark | None) -> int:
    return LONGEST.index(group.args[0]) if group and group.args[0] in LONGEST else len(LONGEST)


@pytest.fixture(scope="module", autouse=True)
def disk() -> Iterator[None]:
    """No wait for the disk, `os.fsync` included; tests/store, about power cuts, takes this back."""
    from evomerge.store import database

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "SYNCHRONOUS", "OFF")
        patch.setattr(database, "SYNCHRONOUS_WITH_LOG", "OFF")
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder with the trained models base, arithmetic, strings and kanji."""
    return ZOO


CODE = """
import torch

def build():
    return torch.nn.Linear(6, 4)

def chances(module, split, seed):
    generator = torch.Generator().manual_seed(seed + (split == "held_out"))
    inputs = torch.randn(8, 6, generator=generator)
    wanted = torch.randint(4, (8,), generator=generator)
    return module(inputs).softmax(1)[torch.arange(8), wanted]

def one(module, split):
    return chances(module, split, 10)

def two(module, split):
    return chances(module, split, 20)
"""


@pytest.fixture(scope="session")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Keys of a search among single layers, for tests that ask nothing of language models.

    They are the base, the sources a, b and c, a fitness of two tasks of 8 examples in each split,
    and the engine: a candidate takes a millisecond.
    """
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("layers")
    (folder / "code.py").write_text(CODE)
    for seed, name in enumerate(("base", "a", "b", "c")):
        layer = torch.nn.Linear(6, 4)
        _randomize(layer, 0, 0.5)
        if seed:
            _randomize(layer, seed, 0.5)
        (folder / name).mkdir()
        tensors = {name: tensor.detach() for name, tensor in layer.named_parameters()}
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    return {
        "base": str(folder / "base"),
        "sources": {name: str(folder / name) for name in ("a", "b", "c")},
        "fitness": {"tasks": {n: {"scorer": f"{folder}/code.py:{n}"} for n in ("one", "two")}},
        "engine": {"name": "torch", "module": f"{folder}/code.py:build", "threads": 1},
    }


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFactory:
    """Makes tiny Llama checkpoints; see `make_tiny` for the options.

    ``tiny(1)`` is a source of the base ``tiny(0)``. The same options give the same folder, so
    treat it as read-only and copy it before you damage it.
    """
    root = tmp_path_factory.mktemp("tiny")
    made: dict[str, Path] = {}

    def make(seed: int = 0, **options: Any) -> Path:
        key = repr((seed, sorted(options.items())))
        if key not in made:
            made[key] = make_tiny(root / f"model-{len(made)}", seed, **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes LoRA adapters of a base through PEFT; see `make_adapter`. Each call makes another."""
    root = tmp_path_factory.mktemp("adapters")

    def make(base: Path, seed: int = 1, **settings: Any) -> Path:
        return make_adapter(root / f"adapter-{len(list(root.iterdir()))}", base, seed, **settings)

    return make


def make_adapter(folder: Path, base: Path, seed: int, **settings: Any) -> Path:
    """An adapter as PEFT saves it, its matrices random.

    Args:
        folder: is made.
        base: a model folder.
        settings: of `LoraConfig`.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    keys = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **settings}
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of what it is asked to do
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = get_peft_model(model, LoraConfig(**keys))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        adapted.save_pretrained(folder)
    return folder


def make_tiny(
    folder: Path,
    seed: int = 0,
    *,
    tied: bool = False,
    sharded: bool = False,
    dtype: str = "float32",
    words: Sequence[str] = WORDS,
    rows: int | None = None,
    **config: Any,
) -> Path:
    """A real Llama checkpoint of 3 layers and width 32, with its fast tokenizer.

    Args:
        folder: is made.
        seed: 0 is the base; any other adds a perturbation of its own to the base's weights.
        tied: whether the head is the embedding.
        sharded: several files with an index.
        dtype: of the stored weights.
        words: the vocabulary; its first four are padding, start, end and unknown.
        rows: of the embedding, one a word by default.
        config: further keys of `LlamaConfig`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    keys = {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
        **{"initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        **config,
    }
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=rows or len(words), tie_word_embeddings=tied, **keys)
    )
    _randomize(model, 0, 0.3)
    if seed:
        _randomize(model, seed, 0.1)
    model.to(getattr(torch, dtype))
    shard = "20KB" if sharded else "1GB"
    model.save_pretrained(folder, max_shard_size=shard)
    _save_tokenizer(folder, words)
    return folder


def _randomize(model: torch.nn.Module, seed: int, scale: float) -> None:
    """Add noise that depends on the seed and on each tensor's name and shape alone."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        noise = scale * torch.randn(parameter.shape, generator=generator)
        start = parameter.data if seed else torch.ones(()) * (parameter.dim() == 1)
        parameter.data = start + noise


def _save_tokenizer(folder: Path, words: Sequence[str]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pad, start, end, unknown = words[:4]
    vocabulary = {word: row for row, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=start,
        eos_token=end,
        unk_token=unknown,
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
