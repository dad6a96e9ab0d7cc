"""Checkpoints changed on purpose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

Change = Callable[[dict[str, Tensor]], Any]
Changed = Callable[..., Path]


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """Copies a checkpoint, then changes its tensors in place or its config's keys."""

    def copy(source: Path, change: Change | None = None, **config: Any) -> Path:
        folder = tmp_path / f"changed-{len(list(tmp_path.glob('changed-*')))}"
        shutil.copytree(source, folder)
        if change is not None:
            tensors = load_file(folder / "model.safetensors")
            change(tensors)
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        if config:
            content = json.loads((folder / "config.json").read_text())
            content |= config
            kept = {key: value for key, value in content.items() if value is not ...}
            (folder / "config.json").write_text(json.dumps(kept))
        return folder

    return copy
