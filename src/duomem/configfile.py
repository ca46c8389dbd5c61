"""Configs as text: the canonical TOML of a run folder, and the commented one that `duomem init` writes.

In: `Settings`. Out: TOML text that loads as the same settings. The comments are the docstrings of the tables and fields, so
they cannot go stale. Not here: reading and checking (`duomem.config`).
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from duomem.config import TABLES, Settings, component_config

_WIDTH = 100


def canonical(settings: Settings) -> str:
    """The resolved config: every key with its value in a fixed order, and the config's hash on the first line."""
    blocks = [f"# config hash: {settings.hash}\n"]
    for table, content in settings.resolved().items():
        lines = [f"{_key(key)} = {toml_value(value)}\n" for key, value in content.items()]
        blocks.append(f"[{table}]\n" + "".join(lines))
    return "\n".join(blocks)


def commented(settings: Settings) -> str:
    """The same, with what each table and key means above it; keys without a value stand there as comments."""
    resolved = settings.resolved()
    blocks = ["# Every key with its value; keys that are left out have the values shown here.\n"]
    for table, model in TABLES.items():
        if table == "teacher" and "games" in resolved:
            blocks.append(_games(resolved["games"]))
        if table not in resolved:
            continue
        config = component_config(table, resolved[table])
        fields = {**(config.model_fields if config else {}), **model.model_fields}
        own, others = list(model.model_fields), [name for name in fields if name not in model.model_fields]
        head = _comment(model.__doc__ or "") + f"[{table}]\n"
        body = "".join(_field(name, fields[name].description or "", resolved[table]) for name in [*own, *others])
        blocks.append(head + body)
    return "\n".join(blocks)


def toml_value(value: Any) -> str:
    """A plain value as TOML. JSON's strings, numbers and booleans are TOML's too."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _games(specs: Mapping[str, Any]) -> str:
    head = _comment("Games to write into the run folder, by split; without this table the environment's own data is played.")
    return head + "[games]\n" + "".join(f"{_key(split)} = {toml_value(spec)}\n" for split, spec in specs.items())


def _field(name: str, words: str, content: Mapping[str, Any]) -> str:
    value = f"{name} = {toml_value(content[name])}\n" if name in content else f"# {name} =\n"
    return _comment(words) + value


def _comment(words: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(" ".join(words.split()), _WIDTH))


def _key(key: str) -> str:
    plain = key and all(char.isascii() and (char.isalnum() or char in "-_") for char in key)
    return key if plain else json.dumps(key)


def undocumented(config: type[BaseModel]) -> list[str]:
    """The fields of a config that say nothing about themselves."""
    return [name for name, field in config.model_fields.items() if not field.description]
