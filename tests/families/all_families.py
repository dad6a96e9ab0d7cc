"""Every family of Transformers that can be made tiny, and what was measured of each."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
# The families that are measured in the fast tests.
MOST_USED = (
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "mixtral"),
    *("bert", "t5", "bart", "qwen2_vl", "llava"),
)
_AUTOS = (
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "AutoModelForCausalLM"),
    ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "AutoModelForImageTextToText"),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "AutoModelForSeq2SeqLM"),
    ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "AutoModelForMaskedLM"),
    ("MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES", "AutoModel"),
    ("MODEL_FOR_IMAGE_MAPPING_NAMES", "AutoModel"),
)


def families() -> dict[str, str]:
    """`model_type` to the Auto class that loads it; of several the first."""
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    for mapping, auto in _AUTOS:
        for family in getattr(modeling_auto, mapping):
            # an encoder with a decoder is no decoder alone
            wanted = "AutoModelForSeq2SeqLM" if family in _SEQ2SEQ else auto
            found.setdefault(family, wanted)
    return dict(sorted(found.items()))


_SEQ2SEQ = (
    *("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "led", "marian", "mbart"),
    *("mvp", "pegasus", "plbart", "prophetnet"),
)


def results() -> dict[str, dict[str, str]]:
    """By family what was measured: its class, its Auto class, and each column of `measure`."""
    found: dict[str, dict[str, str]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found
