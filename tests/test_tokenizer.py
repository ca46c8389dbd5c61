"""The tokenizer without transformers: the same ids, templates and hash as transformers' own, for every family."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import families
from duomem import weights
from duomem._tokenizer import LightTokenizer
from duomem.chat import PLAIN, Style, encode, end_of_turn
from duomem.errors import DataError, MismatchError
from duomem.types import Message, TextPart, Tool, ToolCall

pytest.importorskip("transformers", reason="compares with the extra 'train'")

SEND = Tool("send", "Send a mail.", '{"type": "object", "properties": {"to": {"type": "string"}}}')
TEXT = "naïve café — 汉字 🙂 don't  WON'T\t42nd\n\n put <|im_end|> <eos> </s> ▁ \ue000"
TALK = [
    Message.of("system", "be good"),
    Message.of("user", TEXT),
    Message("assistant", (TextPart("ok"),), (ToolCall("send", '{"to": "x"}', "a"),)),
    Message("tool", (TextPart("done"),), tool_call_id="a"),
    Message.of("assistant", "fine"),
    Message.of("user", "go"),
]


def tokens(tokenizer: Any, messages: list[Message], tools: list[Tool], style: Style) -> tuple[int, ...] | str:
    try:
        return encode(tokenizer, messages, generate=True, tools=tools, style=style).ids
    except MismatchError as refused:
        return str(refused)


@pytest.mark.parametrize("family", ["pocket", *sorted(families.FAMILIES)])
def test_it_is_transformers_own_in_all_that_counts(family: str, tmp_path: Path) -> None:
    if family != "pocket":
        families.tokenizer(family).save_pretrained(tmp_path)
    folder = weights.resolve("pocket") if family == "pocket" else str(tmp_path)
    known, light = weights.load_tokenizer(folder), LightTokenizer(Path(folder))
    assert weights.tokenizer_hash(light) == weights.tokenizer_hash(known)
    assert len(light) == len(known)
    assert (light.all_special_tokens, light.all_special_ids) == (known.all_special_tokens, known.all_special_ids)
    assert end_of_turn(light) == end_of_turn(known)
    ids = known.encode(TEXT, add_special_tokens=False)
    assert light.encode(TEXT, add_special_tokens=False) == ids
    for skip in (False, True):
        assert light.decode(ids, skip_special_tokens=skip) == known.decode(ids, skip_special_tokens=skip)
    for style in (PLAIN, Style("keep"), Style("off", "text")):
        for messages, tools in ((TALK, [SEND]), (TALK[:2], []), (TALK[1:2], [SEND])):
            assert tokens(light, messages, tools, style) == tokens(known, messages, tools, style)


def test_a_folder_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        LightTokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(DataError, match=r"tokenizer\.json cannot be read"):
        LightTokenizer(tmp_path)


def test_the_engine_plays_without_torch_and_transformers(tmp_path: Path) -> None:
    """In a process where neither can be imported."""
    pytest.importorskip("xllamacpp", reason="needs the extra 'llamacpp'")
    script = """
import sys
for name in ("torch", "transformers", "safetensors"):
    sys.modules[name] = None
from duomem.models import llamacpp
from duomem.types import Message, Sampling
model = llamacpp.build(llamacpp.Config(threads=1, max_batch=1))
print(model.reply([Message.of("user", "You see mug 1.")], [], Sampling(max_tokens=8)).usage.completion)
model.close()
"""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
