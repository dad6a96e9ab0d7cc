from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.weights.files.bus_errors import SENTENCE

CUT = """
import os, sys
from pathlib import Path
from evomerge.weights.checkpoint import Checkpoint

folder = Path(sys.argv[1])
model = Checkpoint(folder)
tensor = model.read("lm_head.weight")
os.truncate(folder / "model.safetensors", 0)
print(tensor.sum())
"""
TOGETHER = """
import threading
from evomerge.weights.files.bus_errors import explain_bus_errors

threads = [threading.Thread(target=explain_bus_errors) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
HANDLED = "import faulthandler\nfaulthandler.enable()\n"


@pytest.mark.slow  # a process dies in each
@pytest.mark.parametrize("before", ["", TOGETHER, HANDLED], ids=["", "threads", "handled"])
def test_a_process_whose_mapped_file_is_cut_ends_with_a_sentence(
    before: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny(), tmp_path / "model")
    code = [sys.executable, "-c", before + CUT, str(tmp_path / "model")]
    ended = subprocess.run(code, capture_output=True, text=True, timeout=300)
    if before == HANDLED:  # who asked for a traceback first gets it
        assert ended.returncode < 0
        assert "Fatal Python error: Bus error" in ended.stderr
    else:
        assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", SENTENCE)
