"""Code of Transformers that goes by the number of a block is known, in every family it ships."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from evomerge.weights.stacks.block_code import _SETTINGS

MODELS = Path(transformers.__file__).parent / "models"
_NUMBERS = ("layer_idx", "layer_id", "layer_number", "layer_index", "block_idx")
_BLOCKS = ("layer", "block", ".h")
# Caches and outputs are kept by number, and lists with an item a block move with the blocks.
_FOLLOWS = ("cache", "past", "hidden", "conv_states", "recurrent_states", "layer_types", "mems")
_LISTS = (
    *("layer_rope_theta", "layers_block_type", "value_embedding_layers", "per_layer_config"),
    *("cross_attention_layers", "attention_mask_mapping", "per_layer_attention_mask"),
)

# Families whose code goes by a number that is none of a block of a stack, and why that is harmless.
HARMLESS = {
    **dict.fromkeys(("aya_vision", "llava", "llava_next", "llava_next_video"), "vision features"),
    **dict.fromkeys(("llava_onevision", "mistral3", "phi4_multimodal"), "vision features"),
    **dict.fromkeys(("video_llava", "qwen2_5_vl", "qwen2_5_omni"), "the vision tower"),
    **dict.fromkeys(("exaone4_5", "minicpmv4_6", "minicpmv4_7"), "the vision tower"),
    **dict.fromkeys(
        ("granite_speech", "granite_speech_plus", "granite_speech5"), "the speech tower"
    ),
    **dict.fromkeys(("sam2", "clap", "clvp", "swin", "bit", "pvt"), "stages that no config counts"),
    **dict.fromkeys(("chmv2", "depth_anything", "prompt_depth_anything"), "heads over stages"),
    **dict.fromkeys(
        ("efficientloftr", "lightglue", "univnet", "bark", "bridgetower"), "no row of blocks"
    ),
    **dict.fromkeys(("kyutai_speech_to_text", "mimi"), "the state of a codec's convolutions"),
    **dict.fromkeys(
        ("embedding_gemma2", "gemma3n", "gemma4"), "a tensor with a part for each block"
    ),
    **dict.fromkeys(
        ("blt", "funnel", "zamba2"), "rows that are refused by their counts or weights"
    ),
    **dict.fromkeys(("diffllama", "minimax"), "values that the built blocks show"),
    **dict.fromkeys(("fsmt", "gpt_bigcode", "reformer", "hrm_text"), "caches under other names"),
    **dict.fromkeys(("mllama", "rwkv", "wavlm", "xlnet"), "modules that the built blocks show"),
    **dict.fromkeys(("sam3", "sam3_lite_text"), "a pixel decoder"),
}
# Folders whose model types are written otherwise.
_TYPES = {
    **{"deberta_v2": "deberta-v2", "sew_d": "sew-d", "dab_detr": "dab-detr"},
    **{"grounding_dino": "grounding-dino", "mm_grounding_dino": "mm-grounding-dino"},
    **{"omdet_turbo": "omdet-turbo", "table_transformer": "table-transformer"},
    **{"cohere_compass": "cohere_compass_text", "granite4_vision": "granite4_vision_text"},
    **{"qwen3_omni_moe": "qwen3_omni_moe_text", "qwen3_vl": "qwen3_vl_text"},
    **{"qwen3_vl_moe": "qwen3_vl_moe_text"},
}


@pytest.mark.slow
def test_code_that_goes_by_the_number_of_a_block_is_known_of_every_family() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted(MODELS.glob("*/modeling_*.py")):
        for code in by_number(ast.parse(file.read_text(encoding="utf-8"))):
            if not any(word in code for word in (*_FOLLOWS, *_LISTS)):
                found[file.parent.name].append(code)
    known = HARMLESS.keys() | {f for f in found if _TYPES.get(f, f) in _SETTINGS}
    assert {family: found[family] for family in found.keys() - known} == {}
    assert {"idefics", "qwen3_vl", "deberta_v2", "imagegpt"} <= found.keys()


def by_number(tree: ast.AST) -> Iterator[str]:
    """Comparisons, arithmetic and indexing with the number of a block, outside constructors."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name.startswith(("__", "_init")):
            continue
        names = {*_NUMBERS, *_counted(function)}
        for node in ast.walk(function):
            if any(_is_number(part, names) for part in _parts(node)):
                yield ast.unparse(node)


def _counted(function: ast.FunctionDef) -> Iterator[str]:
    """The names of numbers in loops over blocks."""
    for node in ast.walk(function):
        if isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Call):
            over = ast.unparse(node.iter)
            if over.startswith("enumerate(self") and any(word in over for word in _BLOCKS):
                target = node.target.elts[0] if isinstance(node.target, ast.Tuple) else node.target
                if isinstance(target, ast.Name):
                    yield target.id


def _parts(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Compare):
        return [] if isinstance(node.ops[0], ast.Is | ast.IsNot) else [node.left, *node.comparators]
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.Subscript):
        return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return []


def _is_number(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _NUMBERS
    return isinstance(node, ast.Name) and node.id in names
