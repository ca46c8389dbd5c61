"""Chat templates of the families a student comes from, and tiny tokenizers that know their tokens.

In: a family's name. Out: its tokenizer. Template texts are read from TRL where it ships them; Mistral's and SmolLM's are
written here to behave as theirs do.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest

import tiny_models

# As Mistral 7B v0.3 does: tools and the system text stand before the last question, ids of calls have nine characters.
MISTRAL = """
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- set questions = turns | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in turns %}
    {%- if m.role == 'user' %}
        {%- if tools and m == questions[-1] %}
            {{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + ((system + '\\n\\n') if loop.last and system else '') + m.content + '[/INST]' }}
    {%- elif m.role == 'assistant' and m.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- if call.id | length != 9 %}{{ raise_exception('Tool call IDs need nine characters') }}{% endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + ('' if loop.last else ', ') }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif m.role == 'assistant' %}
        {{- ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + (m.content | tojson) + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('Only user, assistant and tool roles') }}
    {%- endif %}
{%- endfor %}
"""
# As SmolLM2 does: ChatML with a system message of its own where there is none.
SMOLLM2 = """
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
# As SmolLM3 does: today's date and the reasoning mode in the system message, an empty thinking block without thinking.
SMOLLM3 = """
{%- set thinks = enable_thinking is not defined or enable_thinking %}
{%- set system = messages[0].content if messages[0].role == 'system' else 'You are a helpful assistant.' %}
{{- '<|im_start|>system\\nToday Date: ' + strftime_now('%d %B %Y') }}
{{- '\\nReasoning Mode: ' + ('/think' if thinks else '/no_think') }}
{{- '\\n\\n' + system + '<|im_end|>\\n' }}
{%- set block = '' if thinks else '<think>\\n\\n</think>\\n' %}
{%- for m in messages if m.role != 'system' %}
    {%- if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' + block + m.content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}{{ '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' + block }}{% endif %}
"""

THINK = ("<think>", "</think>")
TOOLS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
CHATML = ["<|im_start|>", "<|im_end|>"]
LLAMA = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"]
MARKS = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]

FAMILIES: dict[str, tuple[str, list[str], str, str | None, tuple[str, ...]]] = {
    "qwen3": ("qwen3.jinja", CHATML, "<|im_end|>", None, THINK + TOOLS),
    "gemma3": ("gemma3.jinja", ["<start_of_turn>", "<end_of_turn>", "<eos>"], "<eos>", "<bos>", ()),
    "llama3": ("llama3.jinja", LLAMA, "<|end_of_text|>", "<|begin_of_text|>", ()),
    "llama3_2": ("llama3_2.jinja", LLAMA, "<|end_of_text|>", "<|begin_of_text|>", ()),
    "mistral": (MISTRAL, MARKS, "</s>", "<s>", ()),
    "smollm2": (SMOLLM2, CHATML, "<|im_end|>", None, ()),
    "smollm3": (SMOLLM3, CHATML, "<|im_end|>", None, THINK),
}
"""Template (a file of TRL's, or the text), special tokens, end, start, other added tokens."""
ARCHITECTURES = {
    "qwen3": "qwen3",
    "gemma3": "gemma3",
    "llama3": "llama",
    "llama3_2": "llama",
    "mistral": "mistral",
    "smollm2": "llama",
    "smollm3": "smollm3",
}


def template(name: str) -> str:
    """A template's text; skips where the library that ships it is not there."""
    if not name.endswith(".jinja"):
        return name
    trl = pytest.importorskip("trl", reason="needs TRL's chat templates")
    found = resources.files(trl) / "chat_templates" / name
    if not found.is_file():
        pytest.skip(f"this TRL ships no {name}")
    return found.read_text(encoding="utf-8")


def tokenizer(family: str, vocabulary: int = 400) -> Any:
    """With a larger vocabulary the template's own words are few tokens."""
    text, specials, eos, bos, added = FAMILIES[family]
    found = template(text)
    return tiny_models.tokenizer_of(found, specials, eos, bos, added, vocabulary, found if vocabulary > 400 else "")
