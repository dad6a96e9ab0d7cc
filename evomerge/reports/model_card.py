"""The README.md of a merged checkpoint, as a Hugging Face model card."""

from __future__ import annotations

from pathlib import Path

import yaml

from evomerge import __version__
from evomerge.recipes import Recipe
from evomerge.recipes.yaml import to_yaml


def model_card(recipe: Recipe, title: str) -> str:
    """Markdown with the metadata block that the hub reads.

    Args:
        title: the model's name.
    """
    models = list(dict.fromkeys([recipe.base, *recipe.sources.values()]))
    hub = [model for model in models if not Path(model).is_absolute()]
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "evomerge"],
        **({"base_model": hub, "base_model_relation": "merge"} if hub else {}),
    }
    sources = "\n".join(f"| {name} | `{model}` |" for name, model in recipe.sources.items())
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False).strip()}
---

# {title}

A merge of {len(recipe.sources)} models with the operator `{recipe.operator}`, made by evomerge
{__version__}. The recipe below rebuilds these weights byte for byte with `evomerge build`.

| source | model |
|---|---|
| (base) | `{recipe.base}` |
{sources}

```yaml
{to_yaml(recipe).strip()}
```
"""
