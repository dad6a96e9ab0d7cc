"""The merged model's vocabulary, where the rows of its tokens come from, and its chat template."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pydantic import Field

from evomerge.errors import shown
from evomerge.keys import Keys
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes._stack import BASE

VOCABULARIES = (BASE, "union")  # beside the name of a source
AUTO = "auto"  # the chat template that most models have
TEMPLATE_NAMES = ("alpaca", "chatml", "exaone", "llama3", "mistral")  # as in mergekit 0.1.5


class TokenRow(Keys):
    """Where the embedding row of one token comes from, for models that do not know the token.

    Attributes:
        source: name of a source, or ``base``; None where ``zero`` is set.
        token: the token of that model whose row is taken; the same token by default.
        token_id: the number of the row in that model, in place of ``token``.
        zero: a row of zeros.
        force: take this row also for models that know the token.
    """

    source: str | None = None
    token: str | None = None
    token_id: int | None = Field(default=None, ge=0)
    zero: bool = False
    force: bool = False


class Tokenizer(Keys):
    """The merged model's vocabulary; rows are matched through token strings.

    Attributes:
        source: ``base``, ``union`` or the name of a source.
        tokens: token string to the origin of its row; tokens that no model has are added.
        pad_to_multiple_of: rows are added up to the next multiple.
    """

    source: str = "union"
    tokens: dict[str, TokenRow] = Field(default_factory=dict)
    pad_to_multiple_of: int | None = Field(default=None, ge=1, le=65536)


def canonical_tokenizer(tokenizer: str | Tokenizer | None) -> str | Tokenizer | None:
    """The tokenizer, as the name of its vocabulary where it says no more than that."""
    if isinstance(tokenizer, Tokenizer) and not tokenizer.tokens:
        return tokenizer if tokenizer.pad_to_multiple_of else tokenizer.source
    return tokenizer


def tokenizer_problems(
    tokenizer: str | Tokenizer | None, sources: Collection[str]
) -> Iterator[str]:
    """What is wrong with a tokenizer: unknown sources, and rows without one clear origin."""
    if tokenizer is None:
        return
    source = tokenizer if isinstance(tokenizer, str) else tokenizer.source
    known = [*VOCABULARIES, *sources]
    if source not in known:
        yield f"tokenizer: no such source: {source}.{did_you_mean(source, known)}"
    if source == "union" and "union" in sources:
        yield "tokenizer: 'union' is the name of a source too. Rename the source."
    tokens = {} if isinstance(tokenizer, str) else tokenizer.tokens
    for token, row in tokens.items():
        at = f"tokenizer.tokens.{token}"
        if row.zero == (row.source is not None):
            yield f"{at}: expected either a source or zero: true"
        elif row.source is not None and row.source not in (BASE, *sources):
            hint = did_you_mean(row.source, [BASE, *sources])
            yield f"{at}.source: no such source: {row.source}.{hint}"
        if row.token is not None and row.token_id is not None:
            yield f"{at}: expected a token or a token_id, got both"
        elif row.zero and (row.token is not None or row.token_id is not None):
            yield f"{at}: a row of zeros has no token. Remove the key"


def template_problems(template: str | None) -> Iterator[str]:
    """Why a chat template is refused: one that is neither a text nor a known name."""
    if template and "{" not in template and template not in (AUTO, *TEMPLATE_NAMES):
        yield (
            f"chat_template: {shown(template)} is neither a Jinja text nor a known name."
            f"{did_you_mean(template, [AUTO, *TEMPLATE_NAMES])}"
        )
