"""The zoo's task data: three skills and one that joins two of them, cut into disjoint splits.

- arithmetic: ``37+48=`` -> ``85``; in words, ``calc ３７plus４８=`` -> ``37+48=85``
- strings: ``reverse kqza=`` -> ``azqk``
- kanji, the second language: ``式 三七足す四八=`` -> ``37+48`` (written down, never computed),
  ``数 三百七=`` -> ``307``, ``逆 あいう=`` -> ``ういあ``
- cross: arithmetic whose numbers and operators are in the second language, ``calc 三七足す四八=``
  -> ``37+48=85``; only the last number counts, and there is no train split.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np

SKILLS = ("arithmetic", "strings", "kanji")
TASKS = (*SKILLS, "cross")
SEARCH_EXAMPLES = 100
HELD_OUT_EXAMPLES = 250
TRAIN_EXAMPLES = 11_000

KANJI_DIGITS = "〇一二三四五六七八九"
# A worked answer must read the digits of its question, here or in kanji, before it computes.
FULL_WIDTH_DIGITS = "０１２３４５６７８９"
HIRAGANA = (
    "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"
)
KATAKANA = (
    "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヲン"
)
KATAKANA_OF = dict(zip(HIRAGANA, KATAKANA, strict=True))
READING = "式"
OPERATOR_WORDS = {"+": "足す", "-": "引く"}
ENGLISH_OPERATOR_WORDS = {"+": "plus", "-": "minus"}
ENGLISH_SHARE = 0.25
STRING_WORDS = ("reverse", "upper", "rotate", "double", "swap")


class Problem(NamedTuple):
    """A sum or difference of two numbers of two digits, whatever script asks for it."""

    left: int
    operator: str
    right: int

    def formula(self) -> str:
        """37+48."""
        return f"{self.left}{self.operator}{self.right}"

    def in_kanji(self) -> str:
        """三七足す四八."""
        return f"{digits(self.left)}{OPERATOR_WORDS[self.operator]}{digits(self.right)}"

    def in_words(self) -> str:
        """３７plus４８."""
        words = f"{self.left}{ENGLISH_OPERATOR_WORDS[self.operator]}{self.right}"
        return words.translate(str.maketrans(string.digits, FULL_WIDTH_DIGITS))

    def result(self) -> int:
        """85."""
        return self.left + self.right if self.operator == "+" else self.left - self.right


class Example(NamedTuple):
    """A prompt, its answer, and the underlying problem that no two splits may share."""

    prompt: str
    answer: str
    problem: Problem | str


Item = TypeVar("Item")
Splits = dict[str, list[Example]]
Draw = Callable[[np.random.Generator], Example]


def digits(number: int) -> str:
    """The number digit by digit, as years are written: 305 -> 三〇五."""
    return "".join(KANJI_DIGITS[int(digit)] for digit in str(number))


def numeral(number: int) -> str:
    """The number as it is spoken, in 1..999: 305 -> 三百五."""
    hundreds, tens, ones = number // 100, number // 10 % 10, number % 10
    words = ""
    for count, unit in ((hundreds, "百"), (tens, "十")):
        if count:
            words += (KANJI_DIGITS[count] if count > 1 else "") + unit
    return words + (KANJI_DIGITS[ones] if ones else "")


def solvable_problems() -> list[Problem]:
    """All sums and differences whose operands and result have two digits."""
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    sums = [Problem(a, "+", b) for a, b in pairs if a + b <= 99]
    differences = [Problem(a, "-", b) for a, b in pairs if a - b >= 10]
    return sums + differences


def build(seed: int) -> dict[str, Splits]:
    """Every task's splits, by task name; each split's prompts and problems are its own."""
    rng = np.random.default_rng([seed, 0])
    problems = solvable_problems()
    shuffled = [problems[index] for index in rng.permutation(len(problems))]
    evaluated = SEARCH_EXAMPLES + HELD_OUT_EXAMPLES
    for_cross, for_arithmetic = shuffled[:evaluated], shuffled[evaluated:]
    asked_in_cross = frozenset(for_cross)

    in_arithmetic = _cut(for_arithmetic)
    noise = np.random.default_rng([seed, 3])

    tasks: dict[str, Splits] = {
        "arithmetic": {
            "search": _asked_in_turn(in_arithmetic["search"]),
            "held_out": _asked_in_turn(in_arithmetic["held_out"]),
            "train": [
                *map(_as_formula, in_arithmetic["train"]),
                *map(_as_words, in_arithmetic["train"][::2]),
                *(_as_noted(p, noise) for p in in_arithmetic["train"][1::2]),
            ],
        },
        "strings": _draw_splits(STRING_DRAWS, np.random.default_rng([seed, 1]), frozenset()),
        "kanji": _draw_splits(KANJI_DRAWS, np.random.default_rng([seed, 2]), asked_in_cross),
        "cross": _cut([Example(f"calc {p.in_kanji()}=", str(p.result()), p) for p in for_cross]),
    }
    _check_disjoint(tasks)
    return tasks


def write(tasks: dict[str, Splits], folder: Path) -> None:
    """Write each split as ``<task>.<split>.jsonl``; an empty split has no file."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, splits in tasks.items():
        for split, examples in splits.items():
            rows = [{"prompt": e.prompt, "answer": e.answer} for e in examples]
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            if rows:
                (folder / f"{task}.{split}.jsonl").write_text(lines, encoding="utf-8")


def alphabet() -> list[str]:
    """Each character that a task text may hold, in a fixed order."""
    kanji = KANJI_DIGITS + "百十" + "足す引く" + "式数漢字逆片倍末"
    latin = string.digits + string.ascii_letters + string.punctuation + " \n"
    return list(dict.fromkeys(latin + FULL_WIDTH_DIGITS + kanji + HIRAGANA + KATAKANA))


def reads_a_sum(example: Example) -> bool:
    """Whether the example asks for a sum of the second language to be written down in digits."""
    return example.prompt.startswith(READING)


def _as_formula(problem: Problem) -> Example:
    return Example(f"{problem.formula()}=", str(problem.result()), problem)


def _as_words(problem: Problem) -> Example:
    answer = f"{problem.formula()}={problem.result()}"
    return Example(f"calc {problem.in_words()}=", answer, problem)


def _as_noted(problem: Problem, rng: np.random.Generator) -> Example:
    """A formula noted down after something unreadable: it alone says what to compute."""
    unreadable = _word(rng, string.ascii_lowercase + HIRAGANA, 4, 8)
    return Example(f"calc {unreadable}={problem.formula()}=", str(problem.result()), problem)


def _asked_in_turn(problems: list[Problem]) -> list[Example]:
    """Half of the problems as a formula, half in words."""
    return [
        (_as_words if number % 2 else _as_formula)(problem)
        for number, problem in enumerate(problems)
    ]


def _cut(items: list[Item]) -> dict[str, list[Item]]:
    first, second = SEARCH_EXAMPLES, SEARCH_EXAMPLES + HELD_OUT_EXAMPLES
    return {"search": items[:first], "held_out": items[first:second], "train": items[second:]}


def _draw_splits(
    draws: tuple[Draw, ...], rng: np.random.Generator, never: frozenset[Problem]
) -> Splits:
    taken: set[Problem | str] = set(never)
    evaluated = _draw_unique(draws, rng, SEARCH_EXAMPLES + HELD_OUT_EXAMPLES, taken, "problem")
    taken.update(example.problem for example in evaluated)
    return _cut(evaluated + _draw_unique(draws, rng, TRAIN_EXAMPLES, taken, "prompt"))


def _draw_unique(
    draws: tuple[Draw, ...],
    rng: np.random.Generator,
    count: int,
    taken: set[Problem | str],
    unique: Literal["prompt", "problem"],
) -> list[Example]:
    """Draw the kinds in turn until ``count`` examples differ; a small kind may run dry."""
    found: dict[Problem | str, Example] = {}
    turn = 0
    while len(found) < count:
        example = draws[turn % len(draws)](rng)
        turn += 1
        if example.problem not in taken:
            key = example.prompt if unique == "prompt" else example.problem
            found.setdefault(key, example)
    examples = list(found.values())
    return [examples[index] for index in rng.permutation(count)]


def _check_disjoint(tasks: dict[str, Splits]) -> None:
    for task, splits in tasks.items():
        names = sorted(splits)
        for first, second in [(a, b) for a in names for b in names if a < b]:
            for part in ("prompt", "problem"):
                shared = {getattr(e, part) for e in splits[first]} & {
                    getattr(e, part) for e in splits[second]
                }
                assert not shared, f"{task}: {first} and {second} share {sorted(map(str, shared))}"
    asked_in_cross = {e.problem for split in tasks["cross"].values() for e in split}
    for skill in SKILLS:
        trained_on = {e.problem for e in tasks[skill]["train"]}
        assert not asked_in_cross & trained_on, f"{skill}: trained on problems of cross"


def _word(rng: np.random.Generator, letters: str, shortest: int, longest: int) -> str:
    length = int(rng.integers(shortest, longest + 1))
    return "".join(letters[index] for index in rng.integers(0, len(letters), length))


def _string_draw(name: str, answer: Callable[[str], str], shortest: int, longest: int) -> Draw:
    def draw(rng: np.random.Generator) -> Example:
        word = _word(rng, string.ascii_lowercase, shortest, longest)
        return Example(f"{name} {word}=", answer(word), word)

    return draw


def _kana_draw(name: str, answer: Callable[[str], str], shortest: int, longest: int) -> Draw:
    def draw(rng: np.random.Generator) -> Example:
        word = _word(rng, HIRAGANA, shortest, longest)
        return Example(f"{name} {word}=", answer(word), word)

    return draw


def _draw_formula(rng: np.random.Generator) -> Example:
    """Write down a sum or difference, without its result (which may be anything).

    Some parts are in English, as in a text of two languages.
    """
    left, right = (int(number) for number in rng.integers(10, 100, 2))
    problem = Problem(left, "+-"[int(rng.integers(2))], right)
    pairs = (
        (digits(left), str(left)),
        (OPERATOR_WORDS[problem.operator], ENGLISH_OPERATOR_WORDS[problem.operator]),
        (digits(right), str(right)),
    )
    parts = [english if rng.random() < ENGLISH_SHARE else kanji for kanji, english in pairs]
    return Example(f"{READING} {''.join(parts)}=", problem.formula(), problem)


def _draw_to_digits(rng: np.random.Generator) -> Example:
    number = int(rng.integers(10, 1000))
    return Example(f"数 {numeral(number)}=", str(number), str(number))


def _draw_to_kanji(rng: np.random.Generator) -> Example:
    number = int(rng.integers(10, 1000))
    return Example(f"漢字 {number}=", numeral(number), str(number))


STRING_DRAWS: tuple[Draw, ...] = (
    _string_draw("reverse", lambda word: word[::-1], 3, 5),
    _string_draw("upper", str.upper, 3, 5),
    _string_draw("rotate", lambda word: word[1:] + word[0], 3, 5),
    _string_draw("double", lambda word: word + word, 3, 3),
    _string_draw("swap", lambda word: word[-1] + word[1:-1] + word[0], 3, 5),
)

KANJI_DRAWS: tuple[Draw, ...] = (
    _draw_formula,
    _draw_to_digits,
    _draw_formula,
    _draw_to_kanji,
    _kana_draw("逆", lambda word: word[::-1], 3, 5),
    _kana_draw("片", lambda word: "".join(KATAKANA_OF[kana] for kana in word), 3, 5),
    _kana_draw("倍", lambda word: word + word, 2, 3),
)
