"""Names from files are seen on a terminal, never obeyed, whatever prints them."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.tree import Tree

from evomerge.cli._console import PlainConsole, guard
from evomerge.printable import is_printable, printable
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
