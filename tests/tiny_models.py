"""Tiny tokenizers and models for tests: built in memory in well under a second, random weights, no downloads.

In: a chat template's name. Out: a fast BPE tokenizer with that template, or a folder with a model and its tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3 does: answers after the last question get a think block, earlier ones lose theirs.
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}{% if loop.index0 > ns.last %}"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n{{ m.content.strip('\n') }}{% else %}<|im_start|>assistant\n"
    "{{ m.content }}{% endif %}"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# As Mistral's older ones do: the system text stands in the last user message, answers follow a space.
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}{% else %}"
    "{% set system = '' %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}"
    "[INST] {% if loop.last and system %}{{ system }}\n\n{% endif %}{{ m.content }} [/INST]{% else %} {{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
POCKET = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|a|>{% else %}<|u|>{% endif %}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|a|>{% endif %}"
)
# Refused: forgets all but the last three messages; takes earlier answers' text away; never ends an answer.
DROPS = POCKET.replace("in messages", "in messages[-3:]")
REWRITES = POCKET.replace("{{ m.content }}", "{% if m.role == 'assistant' and not loop.last %}done: {% endif %}{{ m.content }}")
ENDLESS = (
    "{% for m in messages %}\n{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}\nassistant: {% endif %}"
)

TEMPLATES = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>", None),
    "qwen3": (QWEN3, ["<|im_start|>", "<|im_end|>"], "<|im_end|>", None),
    "llama3": (LLAMA3, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eos|>"], "<|eos|>", "<|begin_of_text|>"),
    "gemma": (GEMMA, ["<start_of_turn>", "<end_of_turn>", "<eos>"], "<eos>", "<bos>"),
    "mistral": (MISTRAL, ["[INST]", "[/INST]"], "</s>", "<s>"),
    "pocket": (POCKET, ["<|u|>", "<|a|>", "<|end|>"], "<|end|>", None),
}

NAMES = {
    "llama": "Llama",
    "qwen3": "Qwen3",
    "gemma3": "Gemma3",
    "mistral": "Mistral",
    "smollm3": "SmolLM3",
    "gemma2": "Gemma2",
    "lfm2": "Lfm2",
}
"""How transformers calls the architectures."""

TEXT = """You arrive at countertop 1. On the countertop 1, you see a mug 2, a knife 1 and a plate 3. Nothing happens.
You open the fridge 1. The fridge 1 is open. In it, you see nothing. Your task: put a clean mug in cabinet.
Thought: mug find countertop. Action: go to countertop 1. take mug 2 from countertop 1. move mug 2 to cabinet 4.
system user assistant model
"""


def tokenizer(template: str = "pocket", vocabulary: int = 400) -> Any:
    """A byte-level BPE tokenizer with the named chat template and its special tokens."""
    text, specials, eos, bos = TEMPLATES[template]
    return tokenizer_of(text, specials, eos, bos, vocabulary=vocabulary)


def tokenizer_of(
    text: str,
    specials: list[str],
    eos: str,
    bos: str | None,
    added: tuple[str, ...] = ("<think>", "</think>"),
    vocabulary: int = 400,
    more: str = "",
) -> Any:
    """The same with any template. `added` are tokens that are no special ones, as Qwen has them for thinking and tools.

    `more` is text that the vocabulary is trained on too.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = list(dict.fromkeys([*specials, eos, *([bos] if bos else [])]))
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([TEXT] * 4 + [more], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, bos_token=bos, pad_token=eos)
    made.add_special_tokens({"additional_special_tokens": specials})
    made.add_tokens(list(added))
    made.chat_template = text
    return made


def model(folder: Path, kind: str = "llama", template: str = "pocket", seed: int = 0, made: Any = None, **changes: Any) -> str:
    """Save a random model of two layers and its tokenizer (`made`, or that of a template); returns the folder."""
    import torch
    import transformers

    made = made or tokenizer(template)
    sizes: dict[str, Any] = {
        "vocab_size": len(made),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": made.eos_token_id,
        "bos_token_id": made.bos_token_id,
        "pad_token_id": made.eos_token_id,
        **changes,
    }
    config = getattr(transformers, {"gemma3": "Gemma3TextConfig"}.get(kind, f"{NAMES[kind]}Config"))
    network = getattr(transformers, f"{NAMES[kind]}ForCausalLM")
    torch.manual_seed(seed)
    built = network(config(**sizes))
    for name, parameter in built.named_parameters():
        # Wider than the usual start, so that greedy choices are clear ones and not ties of rounding.
        if parameter.ndim > 1 and "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.25)
    built.save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)
