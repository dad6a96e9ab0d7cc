"""Chat templates: a known name, or the text of one."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.plugins.registry import did_you_mean

AUTO = "auto"  # the one that most models have
TEMPLATES = ("alpaca", "chatml", "exaone", "llama3", "mistral")  # as in mergekit 0.1.5


def template_problems(template: str | None) -> Iterator[str]:
    """Why a chat template is refused."""
    if template and "{" not in template and template not in (AUTO, *TEMPLATES):
        yield (
            f"chat_template: {template!r} is neither a Jinja text nor a known name."
            f"{did_you_mean(template, [AUTO, *TEMPLATES])}"
        )
