from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.errors import OutputError
from evomerge.weights.output.writer import SHARD_BYTES, Spec, WeightsWriter, write_weights

TENSORS = {
    # wide dtypes first, then by name: the order of a plan
    "ids": torch.arange(3),
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(2.5),
    "turned": torch.arange(6, dtype=torch.float32).view(2, 3).t(),
    "ü": torch.ones(2),
    "half": torch.tensor([1.0, -0.0, 3e-5], dtype=torch.bfloat16),
    "flags": torch.tensor([True, False, True]),
}


def specs(tensors: dict[str, Tensor]) -> list[Spec]:
    return [Spec(name, tuple(t.shape), t.dtype) for name, t in tensors.items()]


def write(folder: Path, tensors: dict[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    write_weights(folder, specs(tensors), iter(tensors.items()), shard_bytes)


def test_one_file_holds_the_bytes_that_safetensors_writes(tmp_path: Path) -> None:
    write(tmp_path, TENSORS)
    reference = tmp_path / "reference"
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(contiguous, reference, metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == reference.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "reference"]


@pytest.mark.parametrize(("shard_bytes", "expected"), [(1, 8), (24, 5), (60, 2), (10**9, 1)])
def test_shards_hold_every_tensor_once(tmp_path: Path, shard_bytes: int, expected: int) -> None:
    write(tmp_path, TENSORS, shard_bytes=shard_bytes)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == expected
    found: dict[str, Tensor] = {}
    for file in files:
        part = load_file(file)
        assert len(part) == 1 or sum(t.nbytes for t in part.values()) <= shard_bytes
        assert not part.keys() & found.keys()
        found |= part
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    if expected > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
        assert index["metadata"] == {"total_size": sum(t.nbytes for t in TENSORS.values())}
        assert index["weight_map"].keys() == TENSORS.keys()
        for name, file_name in index["weight_map"].items():
            with safe_open(tmp_path / file_name, framework="pt") as shard:
                assert name in shard.keys()  # noqa: SIM118 - safe_open is no mapping
        assert files[-1].name == f"model-{expected:05d}-of-{expected:05d}.safetensors"


def test_stretches_may_come_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    write(tmp_path / "one", TENSORS)
    stretches = [
        (name, start, tensor.reshape(-1)[start : start + 2])
        for name, tensor in TENSORS.items()
        for start in range(0, tensor.numel(), 2)
    ]
    (tmp_path / "two").mkdir()
    with WeightsWriter(tmp_path / "two", specs(TENSORS)) as writer:
        for name, start, values in reversed(stretches):
            writer.write(name, start, values)
    file = "model.safetensors"
    assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_no_tensor_at_all_is_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path, {})
    assert load_file(tmp_path / "model.safetensors") == {}


class DiskFullError(OSError):
    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "No space left on device")


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def stream(error: BaseException) -> Iterator[tuple[str, Tensor]]:
        yield from list(TENSORS.items())[:5]
        raise error

    for error in (DiskFullError(), KeyboardInterrupt(), ValueError("merge failed")):
        expected = OutputError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected):
            write_weights(tmp_path, specs(TENSORS), stream(error), shard_bytes=30)
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    """A limit on file size stands in for a disk that fills up in the middle of a shard."""
    program = f"""
import resource, signal, torch
from pathlib import Path
from evomerge.errors import OutputError
from evomerge.weights.output.writer import Spec, write_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
specs = [Spec("small", (10,), torch.float32), Spec("large", (50_000,), torch.float32)]
tensors = [(spec.name, torch.zeros(spec.shape)) for spec in specs]
try:
    write_weights(Path({str(tmp_path)!r}), specs, tensors, shard_bytes=1000)
except OutputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("cannot be written: File too large")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write(tmp_path / "nowhere", TENSORS)


@pytest.mark.parametrize(
    "wrong",
    [
        {**TENSORS, "flags": torch.zeros(4, dtype=torch.bool)},
        {name: t for name, t in TENSORS.items() if name != "flags"},
        {**TENSORS, "one more": torch.zeros(1)},
    ],
    ids=["shape", "too few", "too many"],
)
def test_tensors_that_were_not_planned_are_our_bug(
    tmp_path: Path, wrong: dict[str, Tensor]
) -> None:
    with pytest.raises(AssertionError):
        write_weights(tmp_path, specs(TENSORS), iter(wrong.items()))
    assert list(tmp_path.iterdir()) == []
