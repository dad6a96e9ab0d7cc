"""What mergekit's documentation describes or people write, and no example shows, one YAML each."""

from __future__ import annotations

PAIR = "models: [{model: org/a}, {model: org/b}]\n"
BASED = f"base_model: org/base\n{PAIR}"
HALF = "parameters: {weight: 0.5, density: 0.6"

FORMS = {
    "linear, normalize: false": (
        f"merge_method: linear\n{PAIR}parameters: {{weight: 0.4, normalize: false}}\n"
    ),
    "linear, base_model": (
        "merge_method: linear\nbase_model: org/base\n"
        "models: [{model: org/base}, {model: org/a}]\nparameters: {weight: [0.2, 0.9]}\n"
    ),
    "slerp, base second": (
        f"merge_method: slerp\nbase_model: org/b\n{PAIR}parameters: {{t: 0.25}}\n"
    ),
    "task_arithmetic, normalize": (
        f"merge_method: task_arithmetic\n{BASED}{HALF}, normalize: true, lambda: 1.5}}\n"
    ),
    "ties, rescale": f"merge_method: ties\n{BASED}{HALF}, rescale: true}}\n",
    "ties, negative weight": (
        "merge_method: ties\nbase_model: org/base\n"
        "models: [{model: org/a}, {model: org/b, parameters: {weight: -0.4}}]\n"
        f"{HALF}, normalize: false}}\n"
    ),
    "dare_ties, normalize": f"merge_method: dare_ties\n{BASED}{HALF}, normalize: true}}\n",
    "dare_linear, rescale: false": f"merge_method: dare_linear\n{BASED}{HALF}, rescale: false}}\n",
    "breadcrumbs, gamma 0.1": f"merge_method: breadcrumbs\n{BASED}{HALF}, gamma: 0.1}}\n",
    "breadcrumbs, rescale": f"merge_method: breadcrumbs\n{BASED}{HALF}, rescale: true}}\n",
    "model_stock, filter_wise": (
        "merge_method: model_stock\nbase_model: org/base\n"
        "models: [{model: org/a}, {model: org/b}, {model: org/c}]\n"
        "parameters: {filter_wise: true}\n"
    ),
    "nuslerp, flat": f"merge_method: nuslerp\n{PAIR}parameters: {{weight: 0.5}}\n",
    "nuslerp, flatten: false": (
        f"merge_method: nuslerp\n{PAIR}parameters: {{weight: 0.5, nuslerp_flatten: false}}\n"
    ),
    "nuslerp, rows, base": (
        f"merge_method: nuslerp\n{BASED}"
        "parameters: {weight: 0.5, nuslerp_flatten: false, nuslerp_row_wise: true}\n"
    ),
    "multislerp, no base": f"merge_method: multislerp\n{PAIR}parameters: {{weight: 0.7}}\n",
    "karcher, base": f"merge_method: karcher\n{BASED}",
    "sce, all": f"merge_method: sce\n{BASED}",
    "ramplus_tl, defaults": f"merge_method: ramplus_tl\n{BASED}",
    "passthrough, one": "merge_method: passthrough\nmodels: [{model: org/a}]\n",
    "parameters of slices": """
merge_method: linear
slices:
- sources:
  - {model: org/a, layer_range: [0, 4], parameters: {weight: [0.1, 0.7]}}
  - {model: org/b, layer_range: [4, 8], parameters: {weight: {filter: layers.5., value: 0.9}}}
  parameters: {weight: 0.25}
- sources:
  - {model: org/b, layer_range: [0, 3], parameters: {weight: [{filter: q_proj, value: [3, 1]}]}}
  parameters: {weight: [{filter: mlp, value: 0.5}, {filter: model.norm, value: 0.125}]}
- sources:
  - {model: org/a, layer_range: [7, 8]}
  - {model: org/b, layer_range: [0, 1]}
  parameters: {weight: [0.5, 0.75], normalize: false}
parameters: {weight: 1, normalize: [{filter: o_proj, value: false}]}
""",
    "base in slices": """
merge_method: ties
base_model: org/base
slices:
- sources:
  - {model: org/base, layer_range: [0, 3]}
  - {model: org/a, layer_range: [2, 5]}
- sources:
  - {model: org/a, layer_range: [3, 6]}
  - {model: org/base, layer_range: [3, 6]}
  - {model: org/b, layer_range: [1, 4]}
parameters: {weight: 0.5, density: 0.7}
""",
    "tokenizer_source: union, base": (
        f"merge_method: task_arithmetic\n{BASED}{HALF}}}\ntokenizer_source: union\n"
    ),
    "tokenizer_source: model": (
        f"merge_method: linear\n{PAIR}parameters: {{weight: 0.5}}\ntokenizer_source: org/b\n"
    ),
    "tokenizer: padded": (
        f"merge_method: ties\n{BASED}{HALF}}}\n"
        "tokenizer: {source: union, pad_to_multiple_of: 64}\n"
    ),
    "chat_template: auto": (
        f"merge_method: linear\n{PAIR}parameters: {{weight: 0.5}}\n"
        "tokenizer_source: base\nchat_template: auto\n"
    ),
    "chat_template: llama3": (
        f"merge_method: linear\n{PAIR}parameters: {{weight: 0.5}}\nchat_template: llama3\n"
    ),
    "idle keys": (
        "merge_method: linear\nrandom_seed: 3\nmodels: [{model: org/a, revision: null, weight: 3}, "
        "{model: org/b}]\nparameters: {weight: 0.5, density: 0.3, gamma: 1}\n"
    ),
    "model_stock, idle weight": (
        "merge_method: model_stock\nbase_model: org/base\n"
        "models: [{model: org/a, parameters: {weight: 0.3}}, {model: org/b}, {model: org/c}]\n"
        "parameters: {weight: 2, normalize: true}\n"
    ),
    "sce, idle weight": f"merge_method: sce\n{BASED}{HALF}, select_topk: 0.4}}\n",
    "arcee_fusion, idle weight": (
        f"merge_method: arcee_fusion\nbase_model: org/base\nmodels: [{{model: org/a}}]\n{HALF}}}\n"
    ),
    "slerp, idle normalize": (
        f"merge_method: slerp\nbase_model: org/a\n{PAIR}parameters: {{t: 0.3, normalize: true}}\n"
    ),
    "slerp, t beyond": (
        f"merge_method: slerp\nbase_model: org/a\n{PAIR}parameters: {{t: [-0.5, 1.5]}}\n"
    ),
    "nuslerp, t beyond": (
        "merge_method: nuslerp\nmodels: [{model: org/a, parameters: {weight: -0.5}}, "
        "{model: org/b, parameters: {weight: 1.5}}]\n"
    ),
    "della, epsilon by model": (
        "merge_method: della\nbase_model: org/base\nmodels: [{model: org/a, parameters: "
        "{epsilon: 0.1}}, {model: org/b, parameters: {epsilon: [0.02, 0.2]}}]\n"
        f"{HALF}}}\n"
    ),
    "breadcrumbs, gamma by model": (
        "merge_method: breadcrumbs\nbase_model: org/base\nmodels: [{model: org/a, parameters: "
        f"{{gamma: 0.1}}}}, {{model: org/b}}]\n{HALF}}}\n"
    ),
    "breadcrumbs, rescale, gamma by model": (
        "merge_method: breadcrumbs\nbase_model: org/base\nmodels: [{model: org/a, parameters: "
        f"{{gamma: 0.1}}}}, {{model: org/b}}]\n{HALF}, rescale: true}}\n"
    ),
    "ties, density from 0": (
        f"merge_method: ties\n{BASED}parameters: {{weight: 0.5, density: [0, 0.4, 1.2]}}\n"
    ),
    "empty keys": (
        f"merge_method: linear\nbase_model: null\nslices: null\nmodules: null\n{PAIR}"
        "tokenizer: null\ntokenizer_source: null\nchat_template: null\n"
        "parameters: {weight: 0.5}\n"
    ),
    "numbers as texts": (
        "merge_method: task_arithmetic\nbase_model: org/base\nmodels: [{model: org/a, parameters: "
        "{weight: '0.5'}}, {model: org/b, parameters: {weight: []}}]\n"
        "parameters: {weight: ['0.25', '1e-1'], normalize: 'true', lambda: '1.5'}\n"
    ),
    "gradients by filter": (
        f"merge_method: linear\n{PAIR}parameters: {{weight: [{{filter: mlp, value: [0.1, 0.9]}}, "
        "{filter: self_attn, value: [1, 0.5, 0.2]}, {value: 0.3}]}\n"
    ),
    "adapters": (
        "merge_method: task_arithmetic\nbase_model: org/base\nmodels: "
        f"[{{model: org/base+org/lora-a}}, {{model: org/base+org/lora-b}}, {{model: org/c}}]\n"
        f"{HALF}}}\n"
    ),
    "adapters on models": (
        "merge_method: linear\nmodels: [{model: org/a+org/lora-a}, {model: {model: {path: org/b}, "
        "lora: {path: org/lora-b}}}]\nparameters: {weight: 0.5}\n"
    ),
    "more rows than the base": (
        "merge_method: task_arithmetic\nbase_model: org/base\nmodels: [{model: org/a}, "
        f"{{model: org/longer}}]\n{HALF}}}\n"
    ),
    "fewer rows than the base": (
        "merge_method: task_arithmetic\nbase_model: org/longer\nmodels: [{model: org/a}, "
        f"{{model: org/b}}]\n{HALF}}}\n"
    ),
    "renamed token": (
        "merge_method: task_arithmetic\nbase_model: org/base\nmodels: [{model: org/a}, "
        f"{{model: org/renamed}}]\n{HALF}}}\n"
    ),
}
