"""A model's tokenizer and chat template without transformers, for devices: the `tokenizers` library and jinja2 alone.

In: a folder with tokenizer.json, tokenizer_config.json and perhaps chat_template.jinja. Out: what `duomem.chat` and
`duomem.weights` use of a transformers tokenizer; ids, template texts and hash are the same (a test holds that for every
family). Not here: vocabularies in other forms, tokenizers with code of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from duomem.errors import DataError, MissingExtra

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that a template may name, in transformers' order."""


@dataclass(frozen=True, slots=True)
class Added:
    """A token beside the vocabulary proper."""

    content: str
    special: bool


class LightTokenizer:
    """Reads one folder. Raises `MissingExtra`, and `DataError` for files that are not there or cannot be read."""

    def __init__(self, folder: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtra("tokenizers", "device") from error
        settings = _read(folder / "tokenizer_config.json")
        try:
            self.backend_tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises it bare for any file that is not as it should be
            raise DataError(f"{folder}/tokenizer.json cannot be read: {error}") from error
        self.backend_tokenizer.encode_special_tokens = False
        self._named = {key: text for key in _NAMED if (text := _text(settings.get(key)))}
        more = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
        self._extra = [text for each in (more.values() if isinstance(more, dict) else more) if (text := _text(each))]
        template = folder / "chat_template.jinja"
        self.chat_template: str | None = settings.get("chat_template")
        if template.is_file():
            self.chat_template = template.read_text(encoding="utf-8")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    @cached_property
    def added_tokens_decoder(self) -> dict[int, Added]:
        found = self.backend_tokenizer.get_added_tokens_decoder()
        return {int(index): Added(token.content, token.special) for index, token in sorted(found.items())}

    @cached_property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys([*self._named.values(), *self._extra]))

    @cached_property
    def all_special_ids(self) -> list[int]:
        return [self._id(text) for text in self.all_special_tokens]

    @property
    def eos_token_id(self) -> int | None:
        return self._named_id("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._named_id("unk_token")

    def _named_id(self, key: str) -> int | None:
        return self._id(self._named[key]) if key in self._named else None

    def _id(self, text: str) -> int:
        found: int | None = self.backend_tokenizer.token_to_id(text)
        if found is None:
            raise DataError(f"The tokenizer names the special token {text!r}, which its vocabulary does not have.")
        return found

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
        **more: Any,
    ) -> str:
        """The template's text for a conversation, as transformers renders it; `more` are the template's own variables."""
        if tokenize:
            raise ValueError("apply_chat_template gives text; encode it.")
        template = _environment().from_string(chat_template or self.chat_template or "")
        known = {**self._named, **more, "messages": messages, "tools": tools, "documents": None}
        return str(template.render(**known, add_generation_prompt=add_generation_prompt))


def _environment() -> Any:
    """jinja2 as transformers sets it up for templates: sandboxed, blocks trimmed, with its three extras."""
    try:
        from jinja2 import nodes
        from jinja2.exceptions import TemplateError
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtra("jinja2", "device") from error

    class Generation(Extension):
        """`{% generation %}` marks what a trainer learns; it writes nothing itself."""

        tags = {"generation"}  # noqa: RUF012 - as the library declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

        def _same(self, caller: Any) -> str:
            return str(caller())

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **how: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **how)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = refuse
    return made


def _text(token: Any) -> str:
    """A token's text; older files hold an object in its place."""
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no JSON object.")
    return found
