"""The tokenizer of a merged model: the files of one model, more tokens, and a chat template."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from evomerge.errors import CheckpointError, PlanError
from evomerge.files import read_object, read_text
from evomerge.recipes import AUTO
from evomerge.weights.checkpoint import AGAIN, Checkpoint
from evomerge.weights.files.damage import template_fault
from evomerge.weights.files.file_names import TEMPLATE, TEMPLATE_FOLDER, is_of_tokenizer
from evomerge.weights.files.model_code import ModelCode, model_code
from evomerge.weights.files.small_files import copy, small_files
from evomerge.weights.files.token_ids import FAST

# Written from the published formats.
TEMPLATES = {
    "chatml": """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}{{ '\\n' + message['content'] }}<|im_end|>{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\\n' }}{%- endif -%}
""",
    "llama3": """\
{{- bos_token -}}
{%- for message in messages -%}
<|start_header_id|>{{ message['role'] }}<|end_header_id|>
{{- '\\n\\n' + message['content'].strip() }}<|eot_id|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start_header_id|>assistant<|end_header_id|>{{ '\\n\\n' }}
{%- endif -%}
""",
    # the system message belongs to the first instruction
    "mistral": """\
{{- bos_token -}}
{%- set lead = namespace(text='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{%- set lead.text = message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{ ' [INST] ' + lead.text + message['content'] + ' [/INST]' }}{%- set lead.text = '' -%}
{%- else -%}{{ ' ' + message['content'] + eos_token }}
{%- endif -%}
{%- endfor -%}
""",
    "alpaca": """\
{%- set titles = {'user': '### Instruction:\\n', 'assistant': '### Response:\\n'} -%}
{%- for message in messages -%}
{{ titles.get(message['role'], '') + message['content'].strip() + '\\n\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ titles['assistant'] }}{%- endif -%}
""",
    "exaone": """\
{%- if messages[0]['role'] != 'system' -%}[|system|][|endofturn|]{{ '\\n' }}{%- endif -%}
{%- for message in messages -%}
[|{{ message['role'] }}|]{{ message['content'] }}
{%- if message['role'] != 'user' -%}[|endofturn|]{%- endif -%}{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}[|assistant|]{%- endif -%}
""",
}


class AddedToken(TypedDict):
    """An item of ``added_tokens`` in a tokenizer.json."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


def added_tokens(model: Checkpoint) -> dict[str, AddedToken]:
    """Token string to its item under ``added_tokens`` of the tokenizer.json."""
    if model.vocabulary is None or not (model.tokenizer_folder / FAST).exists():
        return {}
    return {token["content"]: token for token in _content(model).get("added_tokens") or []}


def next_id(model: Checkpoint) -> int:
    """The id that the tokenizers library gives to the next token that is added.

    Raises:
        PlanError: ids have gaps, so that this id is taken, or there is no tokenizer.json.
    """
    assert model.vocabulary is not None
    if not (model.tokenizer_folder / FAST).exists():
        raise PlanError(
            f"{model.tokenizer_folder}: has no tokenizer.json to which tokens could be added. "
            "Save one with it: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)."
        )
    last = max((token["id"] for token in added_tokens(model).values()), default=-1)
    number = max(len(_content(model)["model"]["vocab"]), last + 1)
    if number <= max(model.vocabulary.values(), default=-1):
        raise PlanError(
            f"{model.folder}: the ids of its tokens have gaps, so that none can be added. "
            "Take the tokenizer of another model."
        )
    return number


def write_tokenizer(model: Checkpoint, folder: Path, added: Sequence[AddedToken]) -> None:
    """Copy a model's tokenizer with its chat template, and add tokens to it.

    Args:
        added: have the ids that follow the model's own.
    """
    code = tokenizer_code(model.tokenizer_folder).files
    found = small_files(model.tokenizer_folder).files
    fast = bool(added)
    copy({n: f for n, f in found.items() if n in code or is_of_tokenizer(n, fast=fast)}, folder)
    if not added:
        return
    content = _content(model)
    content["added_tokens"] = [*(content.get("added_tokens") or []), *added]
    _write(content, folder / "tokenizer.json")
    config = _tokenizer_config(folder)
    # some tokenizer classes read added tokens there and nowhere else
    if isinstance(config.get("added_tokens_decoder"), dict):
        for token in added:
            flags = {key: value for key, value in token.items() if key != "id"}
            config["added_tokens_decoder"][str(token["id"])] = flags
        _write(config, folder / "tokenizer_config.json")


def tokenizer_code(folder: Path) -> ModelCode:
    """The Python files that a folder's tokenizer needs."""
    return model_code(folder, ["tokenizer_config.json"])


def chosen_template(setting: str | None, folders: Iterable[Path]) -> str | None:
    """The template that a recipe asks for; None to keep the tokenizer's own.

    Args:
        setting: of the recipe: ``auto`` for the one that most models have, a name of `TEMPLATES`,
            or a template.
        folders: of the models, each once.

    Raises:
        PlanError: the template of the recipe is none.
    """
    if setting is None:
        return None
    if setting == AUTO:
        found = [text.strip() for folder in folders if (text := _template_of(folder))]
        return Counter(found).most_common(1)[0][0] if found else None
    if setting not in TEMPLATES and (reason := template_fault(setting)):
        raise PlanError(f"chat_template: not a chat template: {reason}. Repair it.")
    return TEMPLATES.get(setting, setting)


def _template_of(folder: Path) -> str | None:
    """The chat template of a model folder; of several the one named ``default``."""
    if (folder / TEMPLATE).exists():
        return read_text(folder / TEMPLATE, CheckpointError)
    template = _tokenizer_config(folder).get("chat_template")
    if isinstance(template, list):
        named = [item for item in template if isinstance(item, dict)]
        template = {str(item.get("name")): item.get("template") for item in named}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def write_template(template: str, folder: Path) -> None:
    """Make a template the only one of a model folder, saved as Transformers does it."""
    for file in (*folder.glob("chat_template*"), *folder.glob(f"{TEMPLATE_FOLDER}/*")):
        file.unlink()
    if (folder / TEMPLATE_FOLDER).exists():
        (folder / TEMPLATE_FOLDER).rmdir()
    config = _tokenizer_config(folder)
    if config.pop("chat_template", None) is not None:
        _write(config, folder / "tokenizer_config.json")
    (folder / TEMPLATE).write_text(template, encoding="utf-8")


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_object(path, CheckpointError, AGAIN) if path.exists() else {}


def _write(content: Any, path: Path) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")


def _content(model: Checkpoint) -> dict[str, Any]:
    path = model.tokenizer_folder / FAST
    return read_object(path, CheckpointError, AGAIN)
