"""A tokenizer as the keys of a GGUF file: byte-level BPE (GPT-2's form), and SentencePiece-like BPE (Gemma, Mistral).

In: a model's folder with tokenizer.json. Out: tokens, kinds, merges or scores, special tokens and chat template in a GGUF
writer. A way of cutting text that llama.cpp would do otherwise is refused. Not here: encoding; prompts come as token ids.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from duomem.errors import DataError
from duomem.models._gguf_names import WAY_OUT
from duomem.models._gguf_quants import gguf

_QWEN2 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
_LLAMA3 = _QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")
_SPLITS = {_QWEN2: "qwen2", _LLAMA3: "llama-bpe"}
"""How text is cut before merging: the regular expression in tokenizer.json and llama.cpp's name for it. A home-made
byte-level tokenizer cuts as GPT-2 did; without that name llama.cpp says "pre-tokenizer was not recognized"."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPECIALS = {"bos": "add_bos_token_id", "eos": "add_eos_token_id", "pad": "add_pad_token_id", "unk": "add_unk_token_id"}


def write_vocabulary(writer: Any, folder: Path, size: int, end: int | None = None) -> None:
    """`size` rows of the vocabulary; `end` is the token that ends a turn. Raises `DataError`."""
    rules, settings = read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    model = rules["model"]
    if model.get("type") != "BPE":
        raise DataError(f"{folder}/tokenizer.json: only BPE tokenizers can be written as GGUF here. {WAY_OUT}")
    pieces = bool(model.get("byte_fallback"))
    tokens = _tokens(rules)
    unused = gguf().TokenType.UNUSED
    rows = [tokens.get(index, (f"[PAD{index}]", unused)) for index in range(size)]
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    if pieces:
        prefix = _space_prefix(rules, folder)
        writer.add_tokenizer_pre("default")
        writer.add_add_space_prefix(prefix)
        writer.add_token_scores(_scores(model, [text for text, _ in rows]))
    else:
        writer.add_tokenizer_pre(_cut(rules.get("pre_tokenizer"), folder))
        writer.add_token_merges([" ".join(merge) for merge in _merges(model)])
    writer.add_token_list([text for text, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    ids = {text: index for index, (text, _) in tokens.items()}
    for key, method in _SPECIALS.items():
        text = settings.get(f"{key}_token")
        text = text.get("content") if isinstance(text, dict) else text
        if text in ids:
            getattr(writer, method)(ids[text])
    if end is not None:
        writer.add_eot_token_id(end)
    writer.add_add_bos_token(False)  # a chat template writes it
    writer.add_add_eos_token(False)
    template = folder / "chat_template.jinja"
    if template.is_file() or settings.get("chat_template"):
        writer.add_chat_template(template.read_text(encoding="utf-8") if template.is_file() else settings["chat_template"])


def _tokens(rules: dict[str, Any]) -> dict[int, tuple[str, Any]]:
    """Text and kind of each token by its id."""
    kinds = gguf().TokenType
    model = rules["model"]
    bytes_ = kinds.BYTE if model.get("byte_fallback") else kinds.NORMAL
    tokens = {int(index): (text, bytes_ if _BYTE.fullmatch(text) else kinds.NORMAL) for text, index in model["vocab"].items()}
    for added in rules.get("added_tokens", []):
        tokens[int(added["id"])] = (added["content"], kinds.CONTROL if added["special"] else kinds.USER_DEFINED)
    if (unknown := model.get("unk_token")) in model["vocab"]:
        tokens[int(model["vocab"][unknown])] = (unknown, kinds.UNKNOWN)
    return tokens


def _merges(model: dict[str, Any]) -> list[list[str]]:
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]


def _scores(model: dict[str, Any], texts: list[str]) -> list[float]:
    """SentencePiece's scores: llama.cpp merges the pair whose result has the highest, so the first merge has 0, the next -1."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(_merges(model)):
        ranks.setdefault("".join(merge), rank)
    return [-float(ranks.get(text, len(ranks))) for text in texts]


def _space_prefix(rules: dict[str, Any], folder: Path) -> bool:
    """Whether a text gets a space in front. Raises `DataError` for steps that SentencePiece's form does not have."""
    steps = _steps(rules.get("normalizer"), "normalizers")
    cuts = [step.get("type") for step in _steps(rules.get("pre_tokenizer"), "pretokenizers")]
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    meta = next((step for step in _steps(rules.get("pre_tokenizer"), "pretokenizers") if step["type"] == "Metaspace"), None)
    if meta and not steps:
        return bool(meta.get("prepend_scheme", "always") != "never")
    if blank in steps and all(step == blank or step["type"] == "Prepend" for step in steps) and cuts in ([], ["Split"]):
        return any(step["type"] == "Prepend" for step in steps)
    raise DataError(f"{folder}/tokenizer.json: these steps before merging are not known here: {steps} {cuts}. {WAY_OUT}")


def _cut(rule: Any, folder: Path) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts text before merging."""
    steps = _steps(rule, "pretokenizers")
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space"):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"] and steps[0].get("pattern", {}).get("Regex") in _SPLITS:
        return _SPLITS[steps[0]["pattern"]["Regex"]]
    raise DataError(f"{folder}/tokenizer.json: this way of cutting text is not known here ({kinds}). {WAY_OUT}")


def _steps(rule: Any, inner: str) -> list[dict[str, Any]]:
    return rule.get(inner, [rule]) if isinstance(rule, dict) else []


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file. Raises `DataError`."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return content
