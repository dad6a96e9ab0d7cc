"""Names from files are seen on a terminal, never obeyed, whatever prints them."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.tree import Tree

from evomerge.cli._console import PlainConsole, guard, print_data
from evomerge.printable import is_printable, printable, spelled
from evomerge.yaml_files import dump_yaml, parse_yaml

Cli = Callable[..., Any]

EVIL = "a\x1b]0;owned\x07\x9b31m\x7f\u202e[red]:smile:\ud800\nb"
SEEN = r"a\x1b]0;owned\x07\x9b31m\x7f\u202e[red]:smile:\ud800\nb"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_a_terminal_would_obey_is_escaped_and_all_else_stays() -> None:
    assert printable(EVIL) == SEEN
    assert printable("a\nb\tc", lines=True) == "a\nb\\tc"
    plain = "é 数学 ± … 🙂 'x' \\ [red]"
    assert printable(plain) == plain
    assert is_printable(plain)
    every = [chr(number) for number in (*range(32), *range(127, 160), 0x61C, 0x2028, 0x2066)]
    assert all(printable(one).isascii() and printable(one).isprintable() for one in every)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_prints_names_as_they_are_seen(terminal: bool) -> None:
    out = Terminal() if terminal else io.StringIO()
    console = PlainConsole(file=out, width=200, force_terminal=terminal, color_system="truecolor")
    table = Table(EVIL)
    table.add_row(EVIL)
    tree = Tree(EVIL)
    tree.add(EVIL)
    for renderable in (EVIL, table, tree):
        console.print(renderable)
    console.print_lines(f"{EVIL}{EVIL}")
    shown = out.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert all(map(is_printable, shown))
    assert sum(SEEN in line for line in shown) == 5
    one, two = SEEN.split(r"\n")
    assert shown[-3:] == [one, f"    {two}{one}", f"    {two}"]


def test_a_progress_bar_shows_a_name_as_it_is_seen() -> None:
    out = Terminal()
    console = PlainConsole(file=out, width=200, force_terminal=True)
    with Progress(TextColumn("{task.description}", markup=False), console=console) as bar:
        bar.add_task(printable(EVIL), total=1)
    assert SEEN in out.getvalue()


def test_what_libraries_write_is_escaped_but_for_colours_and_the_bars_of_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, err = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    log = logging.getLogger("evomerge.of.a.test")
    log.propagate = False
    text = EVIL.replace("\ud800", "")  # which pytest cannot report
    guard()
    handler = logging.StreamHandler()
    log.addHandler(handler)
    log.warning("%s", text)
    log.removeHandler(handler)
    print(text, file=sys.stderr)
    sys.stderr.writelines(["\r 50%|█|\x1b[31mred\x1b[0m\t"])
    print(text)  # a program reads this
    assert err.getvalue().count(SEEN.replace(r"\ud800\n", "\n")) == 2
    assert err.getvalue().endswith("\r 50%|█|\x1b[31mred\x1b[0m\t")
    assert out.getvalue() == f"{text}\n"


def test_a_program_reads_a_path_in_its_own_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    print_data("a\udcff\x1b/数\n")
    out.flush()
    assert raw.getvalue() == b"a\xff\x1b/" + "数\n".encode()


def test_yaml_with_such_names_is_escaped_and_reads_back_equal() -> None:
    content = {"a\u202eb": ["\x1b[31m", "\u2066", "\x85", "数\u202e学"], "数学": "é\u200dx"}
    text = dump_yaml(content)
    assert is_printable(text.replace("\n", ""))
    assert "数学: é\u200dx" in text
    assert parse_yaml(text, "text") == content
    assert yaml.safe_load(text) == content


def test_names_in_a_search_are_escaped_wherever_they_are_printed(
    layers: dict[str, Any], tmp_path: Path, cli: Cli
) -> None:
    name = "n\x1b]0;owned\x07\u202e[red]"
    search = {
        **layers,
        "name": "names",
        "sources": {name: layers["sources"]["a"], "b": layers["sources"]["b"]},
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "fitness": {"tasks": {name: layers["fitness"]["tasks"]["one"]}},
        "optimizer": "random",
        "budget": {"evaluations": 2},
    }
    path, run = tmp_path / "search.yaml", tmp_path / "\x1b[31mrun"
    path.write_text(dump_yaml(search))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(dump_yaml({**search, name: 1, "base": f"/gone/{name}"}))
    for words, code in (
        (["run", path, "--run", run], 0),
        (["show", run], 0),
        (["show", run, "--json"], 0),
        (["lineage", run], 0),
        (["export", run], 0),
        (["check", path], 0),
        (["check", wrong], 2),
        (["show", tmp_path / name], 2),
    ):
        done = cli(*words)
        assert done.returncode == code, done.stderr
        assert is_printable((done.stdout + done.stderr).replace("\n", "")), words
        if "--json" in words:
            assert name in json.loads(done.stdout)["best"]["tasks"]
        elif words[0] in ("show", "run") and not code:
            assert r"source: n\x1b]0;owned\x07\u202e[red]" in done.stdout


def test_letters_that_a_terminal_lacks_are_spelled_before_columns_are_laid_out() -> None:
    buffer = io.BytesIO()
    out = io.TextIOWrapper(buffer, encoding="ascii")
    console = PlainConsole(file=out, width=60)
    table = Table("search ± 95 %", "café 数")
    table.add_row("0.5 ± 0.1", "…")
    table.add_row("0.5", "x")
    console.print(table)
    out.flush()
    lines = buffer.getvalue().decode("ascii").splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "search +/- 95 %" in lines[1] and r"cafe \u6570" in lines[1]
    assert "0.5 +/- 0.1" in lines[3] and "..." in lines[3]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp437"])
def test_every_letter_can_be_written_whatever_the_encoding(encoding: str) -> None:
    text = "± é 数 🙂 … \udcff →"
    assert spelled(text, encoding).encode(encoding)
    assert spelled("plain", encoding) == "plain"


@pytest.mark.slow
def test_commands_work_where_only_ascii_can_be_shown(zoo: Path, tmp_path: Path) -> None:
    fitness = {"tasks": {"größe": {"scorer": "scores.py:size"}}}
    (tmp_path / "scores.py").write_text("def size(module, split):\n    return [1.0, 0.5]\n")
    (tmp_path / "fitness.yaml").write_text(yaml.safe_dump(fitness, allow_unicode=True))
    search = {
        **{"name": "x", "base": str(zoo / "base"), "sources": {"é": str(zoo / "kanji")}},
        **{"space": "task_arithmetic", "fitness": "fitness.yaml", "budget": {"evaluations": 1}},
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search, allow_unicode=True))
    commands = [["check", "search.yaml"], ["run", "search.yaml", "--run", "r"], ["show", "r"]]
    commands += [
        ["export", "r"],
        ["lineage", "r"],
        ["check", "nöne.yaml"],
        ["check", "\udcff.yaml"],
    ]
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-c", "from evomerge.cli import main; main()", *words],
            capture_output=True,
            cwd=tmp_path,
            env=os.environ | ascii_only,
        )
        said = done.stdout + done.stderr
        assert done.returncode == (2 if ".yaml" in words[1] and "search" not in words[1] else 0), (
            said
        )
        assert b"Traceback" not in said
        assert words[0] == "export" or said.isascii()
        if words[0] == "show":
            assert b"+/-" in said and b"grosse" in said.replace(b"gro\\xdfe", b"grosse")
        if words[0] == "export":
            assert "é:" in done.stdout.decode()
