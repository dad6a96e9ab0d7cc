from __future__ import annotations

import os
from pathlib import Path

from evomerge.scoring import Fitness
from evomerge.scoring.task_files import task_file_problems

TASK = """
task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: "{folder}/nothing-*.jsonl"}}}}
doc_to_text: !function code.py:prompt
"""


def problems(folder: Path) -> list[str]:
    keys = {"include_path": str(folder), "tasks": {"own": {"task": "own"}}}
    return list(map(str, task_file_problems(Fitness.model_validate(keys))))


def test_tasks_and_their_data_that_lm_eval_would_wait_for_are_named(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    (tmp_path / "own.yaml").write_text(TASK.format(data=data, folder=tmp_path))
    data.write_text("{}")
    assert problems(tmp_path) == []
    data.unlink()
    os.mkfifo(data)
    os.mkfifo(tmp_path / "pipe.yaml")
    assert problems(tmp_path) == [
        f"include_path: {data}: cannot be read: it is a named pipe, not a file",
        f"include_path: {tmp_path}/pipe.yaml: cannot be read: it is a named pipe, not a file",
    ]


def test_a_task_that_is_no_yaml_is_left_to_lm_eval(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("a: [")
    assert problems(tmp_path) == []
