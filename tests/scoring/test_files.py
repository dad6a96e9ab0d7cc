from __future__ import annotations

from pathlib import Path

from evomerge.scoring import Fitness
from evomerge.scoring.files import fitness_files

SCORER = """
import numpy
import helpers
FILE = "digits.npz"
LOG = "scorer.log"

def score(module, split, options):
    return [1.0]
"""


def test_the_files_of_a_scorer_are_its_code_and_the_data_that_it_names(tmp_path: Path) -> None:
    for name in ("digits.npz", "scorer.log", "more.jsonl", "helpers.json", "unnamed.csv"):
        (tmp_path / name).write_text("")
    (tmp_path / "score.py").write_text(SCORER)
    (tmp_path / "helpers.py").write_text("DATA = 'helpers.json'")
    options = {"data": {"few": [str(tmp_path / "more.jsonl")]}, "out": "scorer.log", "count": 3}
    task = {"scorer": f"{tmp_path}/score.py:score", "options": options}
    found = fitness_files(Fitness.model_validate({"tasks": {"one": task}}))
    names = ["digits.npz", "helpers.json", "helpers.py", "more.jsonl", "score.py"]
    assert found == [tmp_path / name for name in names]


def test_the_files_of_tasks_are_those_in_their_folder_and_those_that_they_name(
    tmp_path: Path,
) -> None:
    tasks = tmp_path / "tasks"
    (tasks / "__pycache__").mkdir(parents=True)
    (tasks / ".git").mkdir()
    outside = tmp_path / "data"
    outside.mkdir()
    for path in (tasks / "train.parquet", outside / "test.jsonl", outside / "whole.arrow"):
        path.write_text("")
    for ignored in ("README.md", "__pycache__/utils.pyc", ".git/config"):
        (tasks / ignored).write_text("")
    (tmp_path / "common.yaml").write_text("test_split: test\ndataset_path: ./data\n")
    (tasks / "utils.py").write_text("def load(): pass")
    (tasks / "one.yaml").write_text(
        "include: ../common.yaml\n"
        "task: one\n"
        "doc_to_text: '{{question}}\\\n'\n"
        "custom_dataset: !function utils.load\n"
        "dataset_kwargs: {data_files: {test: ../data/test.jsonl}}\n"
    )
    keys = {"include_path": str(tasks), "tasks": ["one"]}
    assert fitness_files(Fitness.model_validate(keys)) == [
        tmp_path / "common.yaml",
        outside / "test.jsonl",
        outside / "whole.arrow",
        tasks / "one.yaml",
        tasks / "train.parquet",
        tasks / "utils.py",
    ]
