"""Names of documents in one mergekit file."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import RecipeError
from evomerge.recipes.mergekit import from_documents


@pytest.mark.parametrize("name", [["x"], {"a": 1}, 7, True])
def test_a_name_that_is_no_text_is_refused(name: object) -> None:
    documents: list[dict[str, Any]] = [
        {"merge_method": "linear", "name": name},
        {"merge_method": "linear"},
    ]
    with pytest.raises(RecipeError, match="m: name: expected a text, got"):
        from_documents(documents, "m", lambda model: 3)
