"""Chat templates: those known by name, and those of model folders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evomerge.recipes import AUTO

FILE = "chat_template.jinja"

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


def chosen(setting: str | None, folders: Iterable[Path]) -> str | None:
    """The template that a recipe asks for; None to keep the tokenizer's own.

    Args:
        setting: of the recipe: ``auto`` for the one that most models have, a name of `TEMPLATES`,
            or a template.
        folders: of the models, each once.
    """
    if setting is None:
        return None
    if setting == AUTO:
        found = [text.strip() for folder in folders if (text := read(folder))]
        return Counter(found).most_common(1)[0][0] if found else None
    return TEMPLATES.get(setting, setting)


def read(folder: Path) -> str | None:
    """The chat template of a model folder; of several the one named ``default``."""
    if (folder / FILE).exists():
        return (folder / FILE).read_text(encoding="utf-8")
    template = _tokenizer_config(folder).get("chat_template")
    if isinstance(template, list):
        template = {item["name"]: item["template"] for item in template}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def write(template: str, folder: Path) -> None:
    """Make a template the only one of a model folder, saved as Transformers does it."""
    for file in (*folder.glob("chat_template*"), *folder.glob("additional_chat_templates/*")):
        file.unlink()
    if (folder / "additional_chat_templates").exists():
        (folder / "additional_chat_templates").rmdir()
    config = _tokenizer_config(folder)
    if config.pop("chat_template", None) is not None:
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (folder / FILE).write_text(template, encoding="utf-8")


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return config if isinstance(config, dict) else {}
