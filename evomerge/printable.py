"""Text that may be anybody's, made harmless for a terminal.

A name in a file may hold what a terminal obeys: colours, the title of the window, text that runs
the other way. Whatever prints a name prints it through `printable`.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

REPLACED = "evomerge.replaced"  # an error handler of `str.encode`, see `spelled`

# control characters (C0, DEL, C1), marks that turn the direction of text, ends of lines and
# paragraphs, and halves of characters, which cannot be encoded
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with escapes in place of characters that do something else than be seen.

    Args:
        lines: whether ends of lines stay as they are; else they are escaped too, as ``\n``.
    """
    return _UNSAFE.sub(lambda found: _escaped(found[0], lines=lines), text)


def spelled(text: str, encoding: str) -> str:
    """The text with other letters for those that an encoding lacks: ``+/-`` for ``±`` in ASCII."""
    return text.encode(encoding, REPLACED).decode(encoding)


def is_printable(text: str) -> bool:
    """Whether a text has nothing to escape; then it has no second line either."""
    return _UNSAFE.search(text) is None


def _escaped(character: str, *, lines: bool) -> str:
    if lines and character == "\n":
        return character
    return character.encode("unicode_escape").decode("ascii")


# what is written here, in letters that every terminal has
_SPELLED = {"±": "+/-", "–": "-", "—": "-", "×": "x", "→": "->", "’": "'"}


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spelled, error.object[error.start : error.end])), error.end


def _spelled(letter: str) -> str:
    """ASCII for a letter: a word of ours, the letter without its accents, or its number."""
    bare = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return _SPELLED.get(letter) or bare or letter.encode("ascii", "backslashreplace").decode()


codecs.register_error(REPLACED, _replaced)
