"""What is heard of Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from evomerge.cli import _progress, _stopping
from evomerge.cli._progress import progress_bar
from evomerge.cli._stopping import Stopping
from evomerge.search.spec import Progress

RECIPE = """
evomerge: 1
base: {zoo}/base
sources: {{a: {zoo}/arithmetic, b: {zoo}/strings}}
operator: linear
dtype: float32
"""


@pytest.fixture
def stopping() -> Iterator[Stopping]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.default_int_handler)  # whoever runs the tests may ignore them
    made = Stopping()
    made.listen()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_work_and_others_do_not_disturb(
    number: signal.Signals, stopping: Stopping
) -> None:
    stopping.raise_if_asked()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert stopping.number == number


def test_a_signal_that_was_swallowed_is_not_forgotten(stopping: Stopping) -> None:
    with suppress(BaseException):  # as a finalizer does
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stopping.raise_if_asked()


def test_a_search_that_swallowed_a_signal_ends_with_its_next_result(
    stopping: Stopping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "stopping", stopping)
    seen: list[str] = []

    with pytest.raises(KeyboardInterrupt), progress_bar(tmp_path) as observe:
        observe(Progress(0, None, None, 0.0, "search"))
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        seen.append("went on")
        observe(Progress(1, None, None, 0.0, "search"))
        seen.append("again")
    assert seen == ["went on"]


def test_one_may_insist_after_a_while(stopping: Stopping, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(_stopping, "SHUTDOWN_GRACE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_was_started_deaf_stays_deaf() -> None:
    """As what a script starts in the background is to Ctrl-C."""
    code = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from evomerge.cli._stopping import stopping
stopping.listen()
signal.raise_signal(signal.SIGINT)
print("goes on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "goes on\n", done.stderr


def test_an_interrupt_that_a_finalizer_lost_is_raised_again_without_a_word() -> None:
    code = """
import signal, sys, time
from evomerge.cli._stopping import stopping
stopping.listen()
sys.unraisablehook = stopping.hear_again

class Late:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        print("never said")

try:
    Late()
    time.sleep(60)
except KeyboardInterrupt:
    stopping.end()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "Stopped.\n")


def test_what_else_a_finalizer_raises_is_told_as_before() -> None:
    code = """
import sys
from evomerge.cli._stopping import stopping
sys.unraisablehook = stopping.hear_again

class Wrong:
    def __del__(self):
        raise ValueError("a fault")

Wrong()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ValueError: a fault" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "words",
    [
        ("list", "operators"),
        ("check", "experiments/quickstart/search.yaml"),
        ("run", "experiments/m2n2_digits/search.yaml", "--run", "OUT"),
        ("build", "RECIPE", "OUT"),
    ],
    ids=lambda words: words[0],
)
def test_a_command_that_is_stopped_at_any_moment_says_no_more_than_that(
    words: tuple[str, ...], number: signal.Signals, tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(zoo=root / "experiments" / "zoo"))
    for moment in range(12):
        out = tmp_path / f"{moment}"
        named = [{"OUT": str(out), "RECIPE": str(recipe)}.get(word, word) for word in words]
        started = subprocess.Popen(
            [sys.executable, "-c", "from evomerge.cli import main; main()", *named],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(0.2 + 0.35 * moment)
        started.send_signal(number)
        said = started.communicate(timeout=120)[1]
        assert started.returncode in (0, -number, 128 + number), said
        assert "Traceback" not in said
        assert "ignored" not in said
        assert words[0] != "build" or started.returncode == 0 or not out.exists()
