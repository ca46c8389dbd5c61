"""Tiny bases and adapters of the families that can be written as GGUF, and the conversations they are compared on.

In: a family's name, a folder. Out: paths. Not here: what is compared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_models
from duomem import weights
from duomem.types import Message, Reply, Sampling

GREEDY = Sampling(max_tokens=24)
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "pocket", {"head_dim": 32}),
    "llama3": ("llama", "llama3", {"head_dim": 32, "tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE}),
    "mistral": ("mistral", "pocket", {"head_dim": 32, "sliding_window": None}),
    "qwen3": ("qwen3", "chatml", {"head_dim": 32}),
    "gemma3": (
        "gemma3",
        "gemma",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 32, "num_hidden_layers": 7},
    ),
}
"""Architecture, chat template and what differs from `tiny_models`. Seven layers of Gemma: one sees beyond its window."""


def base(name: str, folder: Path, **changes: Any) -> str:
    kind, template, settings = FAMILIES[name]
    return tiny_models.model(folder, kind, template, **(settings | changes))


def adapter(base: str, folder: Path) -> str:
    """A random LoRA adapter on every linear layer, with the manifest that this project's have."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = weights.load_base(base, dtype="float32")
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", bias="none"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tuned.save_pretrained(folder)
    pins = {"base_sha256": weights.base_hash(base), "tokenizer_sha256": weights.tokenizer_hash(weights.load_tokenizer(base))}
    (folder / "manifest.json").write_text(json.dumps({"base": "tiny", **pins}))
    return str(folder)


def transcript(model: Any, number: int = 0, turns: int = 3) -> list[Reply]:
    """One conversation; each next message follows from the answer."""
    messages = [Message.of("user", f"Your task: put mug {number} in cabinet. You see a knife 1 and a plate {number}.")]
    replies = []
    for turn in range(turns):
        replies.append(model.reply(messages, [], GREEDY))
        messages += [replies[-1].message, Message.of("user", f"You arrive at countertop {turn}. You see mug {number}.")]
    return replies


def said(replies: list[Reply]) -> list[tuple[str, str, int]]:
    return [(reply.message.text, reply.finish, reply.usage.prompt) for reply in replies]
