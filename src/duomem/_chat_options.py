"""The keys by which a config says how conversations become tokens; a student's model and its tuner share them.

In: a pydantic table that inherits from `ChatOptions`. Out: a `Style`, and a tokenizer with the right template. Not here:
encoding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from duomem import weights
from duomem._tokenizer import LightTokenizer
from duomem.chat import Style
from duomem.errors import MismatchError, UsageError


class ChatOptions(BaseModel):
    """Held equal in training and serving: a tuner takes the student's, and an adapter is refused where they differ."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    chat_template: str | None = None
    """A .jinja file in place of the base's own chat template; none: the base's."""
    thinking: Literal["off", "keep"] = "off"
    """"off": reasoning stands in no prompt and the template is asked not to think; "keep": it stands before its answer in every
    turn and is learned."""
    tool_calls: Literal["auto", "text"] = "auto"
    """"auto": tools as the template writes them, as plain text where it has none; "text": as plain text always."""

    @property
    def style(self) -> Style:
        return Style(self.thinking, self.tool_calls)


SHARED = ("chat_template", "thinking", "tool_calls", "revision", "trust_remote_code")
"""Keys of the student that its tuner takes over where it sets none itself."""


def tokenizer_of(
    base: str, options: ChatOptions, *, revision: str | None = None, trust_remote_code: bool = False, light: bool = False
) -> Any:
    """The base's tokenizer with the config's template; `light`: without transformers where its files allow that.

    Raises `UsageError` for a file that is not there.
    """
    if light and (weights.folder_of(base, revision) / "tokenizer.json").is_file():
        tokenizer: Any = LightTokenizer(weights.folder_of(base, revision))
    else:
        tokenizer = weights.load_tokenizer(base, revision=revision, trust_remote_code=trust_remote_code)
    if options.chat_template:
        path = Path(options.chat_template).expanduser()
        if not path.is_file():
            raise UsageError(f"chat_template: the file {path} does not exist.")
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    return tokenizer


def check_style(manifest: dict[str, Any], options: ChatOptions, adapter: str) -> None:
    """Raises `MismatchError` where an adapter was trained on conversations written in another way."""
    trained = manifest.get("config", {})
    for name, default in (("thinking", "off"), ("tool_calls", "auto")):
        if (was := trained.get(name, default)) != (now := getattr(options, name)):
            raise MismatchError(
                f"Adapter {adapter} was trained with {name} = {was!r}, and the student is served with {now!r}. "
                f"Set student.{name} = {was!r}, or train again."
            )
