"""YAML as a person writes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError, shown
from evomerge.files import absolute
from evomerge.keys import plain
from evomerge.scoring import Fitness
from evomerge.yaml_files import dump_yaml, parse_value, parse_yaml, read_yaml


@pytest.mark.parametrize("text", ["1e-05", "0.00001", "1.0e-5", "1.E-5", ".1e-4", "+1E-05"])
def test_a_number_is_a_number_however_it_is_written(text: str) -> None:
    assert parse_value(text, "here") == 1e-05
    written = f"tasks: {{x: {{scorer: {__file__}:f, weight: {text}, options: {{rate: {text}}}}}}}"
    fitness = Fitness.model_validate(parse_yaml(written, "here"))
    task = {"scorer": f"{__file__}:f", "weight": 1e-05, "options": {"rate": 1e-05}}
    assert fitness.digest == Fitness.model_validate({"tasks": {"x": task}}).digest


@pytest.mark.parametrize("value", [1e-05, -2e30, "1e-05", "-1E5", "e5", "1e", 10**20, "1.e3"])
def test_what_is_written_reads_back_as_what_it_was(value: object) -> None:
    found = parse_yaml(dump_yaml({"a": value}), "here")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: !!int x", "'x' is no number"),
        ("a: !!int ''", "'' is no number"),
        ("a: !!float x", "'x' is no number"),
        ("a: !!bool x", "'x' is no truth value"),
        (f"a: {'9' * 5000}", "is no number"),
        (f"a: 0b{'1' * 5000}", "is no number"),
        ("a: 1e999", "'1e999' is no number"),
        ("a: !!binary aGk=", "the tag '!!binary' is not known"),
        ("a: !!set {x}", "the tag '!!set' is not known"),
        ("a: !!timestamp 2024-13-45", "the tag '!!timestamp' is not known"),
        ("a: !!python/object:os.system {}", "the tag '!!python/object:os.system' is not known"),
        ("a: !mine 1", "the tag '!mine' is not known"),
        ("a: " + "[" * 1000 + "]" * 1000, "more than 100 levels"),
        ("a: " + "{a: " * 1000 + "1" + "}" * 1000, "more than 100 levels"),
        ("a: &x [*x]", "*x is a part of itself"),
        ("a: &x {b: {c: *x}}", "*x is a part of itself"),
        ("a: &x {<<: *x}", "*x is a part of itself"),
        ('a: "\\0"', "a text with a null character"),
        ('a: "\\ud800"', "half of a character"),
        ('"\\ud800": 1', "half of a character"),
        ("? [1, 2]\n: 3", "the key [1, 2] is no text"),
        ("1: 2", "the key 1 is no text. Put it in quotes"),
        ("no: 2", "the key False is no text. Put it in quotes"),
        ("a: {b: 1, b: 2}", "key 'b' is given twice"),
        ("x: &x {p: 1}\na: {<<: *x, <<: *x}", "key '<<' is given twice"),
        ("a: {<<: 7}", "'<<' takes keys and values"),
        ("a: [1", "not valid YAML"),
        ("a: *b", "undefined alias"),
        ("", "expected keys and values, got NoneType"),
        ("[]", "expected keys and values, got list"),
    ],
    ids=lambda words: words[:30],
)
def test_what_is_no_yaml_is_refused_with_where_and_why(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "here")
    assert str(caught.value).startswith("here: ")
    assert why in str(caught.value)
    assert len(str(caught.value)) < 400


def test_aliases_that_multiply_are_refused_before_they_are_written_out() -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 50000 values more"):
        parse_yaml("\n".join(lines), "here")
    keys = ["a0: &a0 {x: 1}"]
    keys += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 50000 values more"):
        parse_yaml("\n".join(keys), "here")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
        ("{a: 3, <<: {a: 1, b: 2}}", {"a": 3, "b": 2}),
        ("{<<: [{a: 1}, {a: 2, b: 2}], c: 3}", {"a": 1, "b": 2, "c": 3}),
        ("{<<: [{<<: {a: 1}}, {a: 2}]}", {"a": 1}),
        ("{'<<': {a: 1}}", {"<<": {"a": 1}}),
        ("{<<: []}", {}),
        ("{day: 2024-13-45, other: 2024-01-05}", {"day": "2024-13-45", "other": "2024-01-05"}),
        ("[=, ~, yes, 0x10, 1_000]", ["=", None, True, 16, 1000]),
        ('"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_what_yaml_allows_is_read_by_its_rules(text: str, value: object) -> None:
    assert parse_value(text, "here") == value


def test_every_alias_is_a_copy_of_its_own() -> None:
    content = parse_yaml("a: &x {p: [1]}\nb: *x\nc: {<<: *x}", "here")
    content["b"]["p"].append(2)
    assert content == {"a": {"p": [1]}, "b": {"p": [1, 2]}, "c": {"p": [1]}}


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for name, why in {
        "latin.yaml": "not UTF-8 text",
        "fifo.yaml": "a named pipe, not a file",
        "loop.yaml": "cannot be read",
        "none.yaml": "No such file",
        f"{'a' * 300}.yaml": "File name too long",
        ".": "a folder",
    }.items():
        with pytest.raises(ConfigError, match=why):
            read_yaml(tmp_path / name)


def _nested(levels: int) -> Any:
    return [_nested(levels - 1)] if levels else 0


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"a": {"b": {1, 2}}}, "a.b: expected a text, a number, .* got a set"),
        ({"a": {"b": {1: 2}}}, "a.b: the key 1 is no text"),
        ({"a": ["x", b"x"]}, "a.1: expected a text, a number, .* got a bytes"),
        ({"a": "\ud800"}, "a: a text with half of a character"),
        ({"a": "x\0"}, "a: a text with a null character"),
        ({"a": _nested(200)}, "a: more than 100 levels"),
    ],
)
def test_keys_from_python_are_held_to_what_a_yaml_can_hold(value: object, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        plain(value)


@pytest.mark.parametrize("value", ["x", 1.5, [1, {"a": (2,)}], (1,), (), {}, None, b"x", {"b": []}])
def test_a_short_value_is_shown_as_python_writes_it(value: object) -> None:
    assert shown(value) == repr(value)


def test_no_more_is_made_of_a_value_than_is_shown() -> None:
    bomb: Any = "lol"
    for _ in range(40):
        bomb = [bomb] * 10  # 10^40 values
    assert shown(bomb) == "[" * 40 + "'lol'" + ", 'lol'" * 7 + ", '..."
    assert shown({"a": "x" * 10**8}) == "{'a': '" + "x" * 90 + "..."
    assert shown(10**5000) == "a number of more than 300 digits"


@pytest.mark.parametrize("path", ["~nosuchuser/x", "loop/x", "a" * 300, "x\0y"])
def test_what_is_no_path_is_said_to_be_none(path: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="not a path"):
        absolute(path, tmp_path)
