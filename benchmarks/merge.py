"""From YAML to finished folder: evomerge against mergekit, beside the cost of copying the bytes.

Makes three Llama-shaped checkpoints of random weights (0.47 B parameters in bfloat16, several
shards each), installs mergekit 0.1.5 in an environment of its own, and runs both on the same
mergekit YAML, one after the other, several times. Prints medians and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from _mergekit import install

from evomerge.weights.output.writer import Spec, write_weights

HIDDEN, INTERMEDIATE, LAYERS, TOKENS, HEADS = 1024, 4096, 24, 32_000, 16
SHARD_BYTES = 300_000_000
METHODS = {
    "linear": {},
    "slerp": {"t": 0.4},
    "task_arithmetic": {},
    "model_stock": {},
    "karcher": {},
    "ties": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "sce": {"select_topk": 0.5},
    "della": {"density": 0.5, "epsilon": 0.1},
}
PER_MODEL = ("weight", "density", "epsilon")
WEIGHTED = ("linear", "task_arithmetic", "ties", "dare_ties", "della")
CHUNK = 1 << 22


class Cost(NamedTuple):
    """What one run took."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int  # of memory that is not a mapped file


def main() -> None:
    """Make the models, run everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="medians are over this many")
    parser.add_argument("--folder", type=Path, help="keeps models and environment between runs")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--without-mergekit", action="store_true")
    parser.add_argument("--json", type=Path, help="writes the figures there, too")
    parser.add_argument("--proper", nargs=2, metavar=("YAML", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.proper:
        print(_merge_proper(*map(Path, arguments.proper)))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="evomerge-benchmark-"))
    models = [make_model(folder / f"model-{seed}", seed) for seed in range(3)]
    peer = None if arguments.without_mergekit else install(folder / "mergekit") / "mergekit-yaml"
    try:
        figures = _measure(folder, models, peer, arguments.methods, arguments.runs)
        _print(figures)
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)


def make_model(folder: Path, seed: int) -> Path:
    """A checkpoint of a base (seed 0), or of one with a perturbation of its own."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    shapes = _shapes()
    specs = [Spec(name, shape, torch.bfloat16) for name, shape in sorted(shapes.items())]

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for number, spec in enumerate(specs):
            base = torch.Generator().manual_seed(number)
            own = torch.Generator().manual_seed(1000 * seed + number)
            tensor = 0.02 * torch.randn(spec.shape, generator=base)
            if seed:
                tensor += 0.002 * torch.randn(spec.shape, generator=own)
            yield spec.name, tensor.bfloat16()

    write_weights(folder, specs, tensors(), SHARD_BYTES)
    config = {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"},
        **{"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "vocab_size": TOKENS},
        **{"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "hidden_act": "silu"},
        **{"num_key_value_heads": HEADS, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
        **{"tie_word_embeddings": False, "torch_dtype": "bfloat16", "initializer_range": 0.02},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (TOKENS, HIDDEN),
        "lm_head.weight": (TOKENS, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            shapes[f"{block}.self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        for name in ("gate", "up"):
            shapes[f"{block}.mlp.{name}_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{block}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        shapes[f"{block}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{block}.post_attention_layernorm.weight"] = (HIDDEN,)
    return shapes


def recipe(method: str, models: list[Path]) -> str:
    """The mergekit YAML of a method, base and two sources."""
    settings = METHODS[method]
    own = {key: value for key, value in settings.items() if key in PER_MODEL}
    if method in WEIGHTED:
        own["weight"] = 0.5
    base, *sources = map(str, models)
    listed = [{"model": model, "parameters": own} if own else {"model": model} for model in sources]
    if method == "slerp":
        listed = [{"model": base}, {"model": sources[0]}]
    if method in ("linear", "karcher"):
        listed = [{"model": base, **listed[0]} | {"model": base}, *listed]
    content = {
        "merge_method": method,
        "models": listed,
        "dtype": "bfloat16",
        "parameters": {key: value for key, value in settings.items() if key not in PER_MODEL},
    }
    if method not in ("linear", "karcher"):
        content["base_model"] = base
    return yaml.safe_dump(content)


def _measure(
    folder: Path, models: list[Path], peer: Path | None, methods: list[str], runs: int
) -> dict[str, dict[str, list[float]]]:
    out = folder / "out"
    own = Path(sys.executable).parent / "evomerge"
    found: dict[str, dict[str, list[float]]] = {
        "floor": {"wall": [_copy(models, out) for _ in range(runs)]}
    }
    for method in methods:
        path = folder / f"{method}.yaml"
        path.write_text(recipe(method, models))
        commands = {"evomerge": [own, "build", path, out]}
        if peer is not None:
            commands["mergekit"] = [peer, path, out, "--no-copy-tokenizer"]
        figures: dict[str, list[float]] = {}
        for _ in range(runs):
            for name, command in commands.items():
                cost = _run([str(part) for part in command], out)
                for key, value in cost._asdict().items():
                    figures.setdefault(f"{name}.{key}", []).append(value)
            proper = [sys.executable, __file__, "--proper", str(path), str(out)]
            printed = subprocess.run(proper, check=True, capture_output=True, text=True)  # noqa: S603
            shutil.rmtree(out)
            figures.setdefault("evomerge.proper_seconds", []).append(float(printed.stdout))
        found[method] = figures
        print(method, {k: round(statistics.median(v), 2) for k, v in figures.items()}, flush=True)
    return found


def _run(command: list[str], out: Path) -> Cost:
    """One process from start to end."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603
    peak = [0]
    ended = threading.Event()

    def watch() -> None:
        status = Path(f"/proc/{process.pid}/status")
        while not ended.wait(0.01):
            try:
                lines = status.read_text().splitlines()
            except OSError:
                return
            rows = [line.split() for line in lines if line.startswith("RssAnon")]
            peak[0] = max([peak[0], *(int(row[1]) * 1024 for row in rows)])

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stderr is not None
    complaints = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    ended.set()
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{complaints.decode()[-2000:]}")
    shutil.rmtree(out)
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak[0])


def _merge_proper(path: Path, out: Path) -> float:
    """Wall seconds of a build in a process that has imported everything."""
    from evomerge.weights.build import build
    from evomerge.weights.library import read_recipe

    content = read_recipe(path)
    started = time.perf_counter()
    build(content, out)
    return time.perf_counter() - started


def _copy(models: list[Path], out: Path) -> float:
    """Wall seconds to read all models and write one, by as many threads as there are cores."""
    files = [file for model in models for file in sorted(model.glob("*.safetensors"))]
    out.mkdir()
    last = {file: out / file.name for file in models[-1].glob("*.safetensors")}
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda file: _copy_file(file, last.get(file)), files))
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return seconds


def _copy_file(file: Path, target: Path | None) -> None:
    """Read a file; write what was read, and bring it to the disk, if there is a target."""
    buffer = memoryview(bytearray(CHUNK))
    with file.open("rb", buffering=0) as source:
        if target is None:
            while source.readinto(buffer):
                pass
            return
        with target.open("wb", buffering=0) as sink:
            while count := source.readinto(buffer):
                sink.write(buffer[:count])
            os.fsync(sink.fileno())


def _print(found: dict[str, dict[str, list[float]]]) -> None:
    floor = statistics.median(found.pop("floor")["wall"])
    print(f"\nfloor: {floor:.2f} s to read the models and write one\n")
    print(
        "| method | CPU s | mergekit | ratio | wall s | mergekit | merge / floor | MiB | mergekit |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for method, figures in found.items():
        mid = {key: statistics.median(values) for key, values in figures.items()}
        own, peer = "evomerge", "mergekit"
        theirs = mid.get(f"{peer}.cpu_seconds", float("nan"))
        cells = [
            method,
            f"{mid[f'{own}.cpu_seconds']:.1f}",
            f"{theirs:.1f}",
            f"{theirs / mid[f'{own}.cpu_seconds']:.1f}",
            f"{mid[f'{own}.wall_seconds']:.1f}",
            f"{mid.get(f'{peer}.wall_seconds', float('nan')):.1f}",
            f"{mid[f'{own}.proper_seconds'] / floor:.2f}",
            f"{mid[f'{own}.peak_bytes'] / 2**20:.0f}",
            f"{mid.get(f'{peer}.peak_bytes', float('nan')) / 2**20:.0f}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
