"""What a user should know of the small files that come with a merged model."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.errors import PlanError
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.small_files import small_files
from evomerge.weights.tokens.tokenizers import tokenizer_code


def file_notes(base: Checkpoint, owner: Checkpoint) -> Iterator[str]:
    """Sentences about the files that `write_metadata` copies, leaves out or does not find.

    Args:
        owner: the model that the tokenizer is of.

    Raises:
        PlanError: the tokenizer's own Python files would replace others of the base.
    """
    found = small_files(base.folder)
    if base.folder in base.on_disk:  # and not one of a recipe, which was asked already
        yield from found.notes
    code = list(found.code)
    if owner is not base:
        theirs = tokenizer_code(owner.tokenizer_folder)
        yield from theirs.notes
        differ = [
            name
            for name in theirs.files
            if name in found.files
            and found.files[name].read_bytes() != (owner.tokenizer_folder / name).read_bytes()
        ]
        if differ:
            raise PlanError(
                f"{owner.tokenizer_folder}: its tokenizer needs {differ[0]}, which differs from "
                f"that of {base.folder}. Take the base's tokenizer."
            )
        code += [name for name in theirs.files if name not in code]
    if code:
        yield (
            "the merged model comes with Python of its models, which Transformers runs only with "
            f"trust_remote_code=True: {', '.join(code)}."
        )
