"""The small files of a model folder by their names: whose they are, and who reads them.

Patterns are those of `fnmatch`; each stands for as many parts of a path as it has itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache

TEMPLATE = "chat_template.jinja"
TEMPLATE_FOLDER = (
    "additional_chat_templates"  # the one folder within a model's that Transformers reads
)

_TEMPLATES = ("*.jinja", "chat_template*", f"{TEMPLATE_FOLDER}/*")
# as the tokenizers of Transformers call them in their `vocab_files_names`
_TOKENIZER = (
    *("tokenizer*", "*.tokenizer", "added_tokens*", "special_tokens*", "vocab*", "*_vocab*"),
    *("*.model", "*.spm", "*.tiktoken", "*.bpe", "*.codes", "merges.txt", "dict.txt"),
    *("byte_maps.json", "emoji.json", "normalizer.json", "word_*.json"),
)
# that may be of one, or of the model's own code
_PERHAPS_TOKENIZER = ("*token*", "*vocab*")
_SETTINGS = ("*config.json", "manifest.json")  # the latter of statistics

# of a tokenizer to which tokens were added: files of older formats would lack them
_FAST = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", *_TEMPLATES)

# of a training, of the hub, and of the weights: none says anything of a merged model
_UNRELATED = (
    *("readme*", "*.index.json", "*.log", "*.partial", "*.lock", "events.out.tfevents.*"),
    *("trainer_state.json", "trainer_log.jsonl", "*_results.json"),
    *("mergekit_config.y*ml", "openvino_*"),  # of how it was merged, and of another format
)

# Those that Transformers opens under these very names, by what they hold.
OBJECTS = (
    *("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "preprocessor_config.json", "processor_config.json"),
    *("video_preprocessor_config.json", "chat_template.json"),
)
TEXTS = (TEMPLATE, "merges.txt")
# their format is left to the tokenizer that reads them
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def is_of_tokenizer(name: str, *, fast: bool = False) -> bool:
    """Whether a file belongs to a model's tokenizer; of code only `model_code` tells.

    Args:
        name: its path, relative to the folder, with ``/``.
        fast: ask for those alone that hold where tokens were added to a tokenizer.json.
    """
    patterns = _FAST if fast else (*_TOKENIZER, *_TEMPLATES)
    return not name.endswith(".py") and _matches(name, patterns)


@cache  # asked of the same names for every candidate
def is_read(name: str) -> bool:
    """Whether a score may depend on a file: on settings, vocabularies and templates."""
    return _matches(name, (*_SETTINGS, *_TOKENIZER, *_PERHAPS_TOKENIZER, *_TEMPLATES))


def is_unrelated(name: str) -> bool:
    """Whether a file in a model's folder says nothing of the model, by its name without folders."""
    return _matches(name.lower(), _UNRELATED)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(name.count("/") == p.count("/") and fnmatchcase(name, p) for p in patterns)
