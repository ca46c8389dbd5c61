"""Grammars (GBNF, llama.cpp's) that an answer is held to: commands of a text world, or calls of typed tools.

In: a layout's reply form with action templates or legal actions; tools with JSON Schemas and how the chat template writes
calls. Out: grammar texts. White space is fixed as this project writes JSON, since weak models fill freedom with it. Not here:
deciding what is legal, decoding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from duomem._chat_calls import CallForm
from duomem.types import Tool

_SLOT = re.compile(r"\{(\w+)\}")
_NAMED = 'thing ::= [a-z]+ (" " [a-z]+)? " " [0-9]+'
"""What stands in a template's slot: one or two words and a number, as text worlds name things."""
_JSON = {
    "string": r'"\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "any": "object | array | string | number | boolean | null",
    "object": '"{" (string ": " any (", " string ": " any)*)? "}"',
    "array": '"[" (any (", " any)*)? "]"',
}


def literal(text: str) -> str:
    """A text as GBNF writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f'"{escaped}"'


def of_actions(reply: str, actions: Sequence[str]) -> str:
    """Replies in a layout's form whose command is one of these, word for word.

    `reply` is the layout's reply form with the slots thought and command; a thought is one line, without the character that
    follows it in the form.
    """
    return _reply(reply, [_tree(sorted(set(actions)))])


def of_templates(reply: str, templates: Sequence[str]) -> str:
    """The same for templates such as "take {object} from {place}": a slot holds any name with a number."""
    bodies = [" ".join(_parts(template, "thing")) for template in templates]
    return _reply(reply, [" | ".join(bodies), _NAMED])


def of_calls(form: CallForm, tools: Sequence[Tool]) -> str:
    """Calls of these tools as the chat template writes them, one or more where it takes several, with arguments by schema.

    Schemas beyond types, properties, items, enum, const, anyOf and oneOf are held to JSON alone.
    """
    rules = _Rules()
    calls = [
        f"{literal(tool.name + form.middle)} {rules.value(json.loads(tool.parameters), f'tool{number}')}"
        for number, tool in enumerate(tools)
    ]
    rules.add("call", " | ".join(calls))
    more = f"({literal(form.between)} call)*" if form.between else ""
    rules.add("root", f"{literal(form.first)} call {more} {literal(form.last)}")
    return rules.text


def of_schema(schema: dict[str, Any]) -> str:
    """One JSON value by its schema; an object where the schema says nothing. Held to as much of it as `of_calls` is."""
    rules = _Rules()
    value = rules.value(schema or {"type": "object"}, "answer")
    rules.add("root", value)
    return rules.text


def trigger(form: CallForm) -> str:
    """The text with which calls begin: before it an answer is free."""
    return form.first.split("\n")[0].split("{")[0].rstrip() or form.first


def _reply(reply: str, command: Sequence[str]) -> str:
    """`command`: the rule's body, then other rules as they are."""
    found = _SLOT.split(reply)  # literal, slot, literal, ...
    parts, stops = [], ""
    for index, part in enumerate(found):
        if index % 2 == 0:
            parts += [literal(part)] if part else []
        elif part == "thought":
            stops = found[index + 1].strip()[:1]
            parts.append("thought")
        else:
            parts.append("command")
    inner = stops.replace("\\", "\\\\").replace("]", "\\]").replace("^", "\\^").replace("-", "\\-")
    lines = [f"root ::= {' '.join(parts)}", f"command ::= {command[0]}", *command[1:]]
    return "\n".join([*lines, f"thought ::= [^{inner}\\n]*"]) + "\n"


def _parts(template: str, slot: str) -> list[str]:
    split = _SLOT.split(template)
    return [slot if index % 2 else literal(part) for index, part in enumerate(split) if index % 2 or part]


def _tree(texts: Sequence[str]) -> str:
    """Alternatives with what they have in common written once, so that few ways are open at a time. `texts` are sorted."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        head, space, _ = text.partition(" ")
        groups.setdefault(head + space, []).append(text)
    bodies = []
    for head, members in groups.items():
        rest = [member.removeprefix(head) for member in members]
        if len(rest) == 1:
            bodies.append(literal(members[0]))
        else:
            bodies.append(f"{literal(head)} ({_tree(rest)})")
    return " | ".join(bodies)


class _Rules:
    """Rules by name, in the order in which they were made."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}

    @property
    def text(self) -> str:
        return "".join(f"{name} ::= {body}\n" for name, body in self._rules.items())

    def add(self, name: str, body: str) -> str:
        self._rules[name] = body
        return name

    def value(self, schema: Any, name: str) -> str:
        """A name or a group that stands for one value of a schema."""
        if not isinstance(schema, dict):
            return self._plain("any")
        if "const" in schema or "enum" in schema:
            values = schema.get("enum", [schema.get("const")])
            return f"({' | '.join(literal(json.dumps(value, ensure_ascii=False)) for value in values)})"
        if several := schema.get("anyOf") or schema.get("oneOf"):
            return f"({' | '.join(self.value(each, f'{name}-{at}') for at, each in enumerate(several))})"
        kind = schema.get("type")
        if isinstance(kind, list):
            return f"({' | '.join(self.value(schema | {'type': each}, f'{name}-{each}') for each in kind)})"
        if kind == "object" and schema.get("properties"):
            return self._object(schema, name)
        if kind == "array" and "items" in schema:
            item = self.value(schema["items"], f"{name}-item")
            return self.add(name, f'"[" ({item} (", " {item})*)? "]"')
        return self._plain(str(kind) if kind in _JSON else "any")

    def _plain(self, kind: str) -> str:
        if kind not in self._rules:
            self.add(kind, _JSON[kind])
            for other in ("object", "array", "any", "string", "number", "boolean", "null"):
                if kind in ("any", "object", "array"):
                    self._plain(other)
        return kind

    def _object(self, schema: dict[str, Any], name: str) -> str:
        """Properties in the schema's order; those that are not required may be left out."""
        properties, required = list(schema["properties"].items()), schema.get("required", [])
        values = [self.value(inner, f"{name}-{at}") for at, (_, inner) in enumerate(properties)]
        for at in reversed(range(len(properties))):
            key = properties[at][0]
            for begun in (False, True):
                rest = [f"{name}-from{at + 1}{'b' if following else ''}" for following in (True, begun)]
                if at + 1 == len(properties):
                    rest = ['""', '""']
                lead = literal((", " if begun else "") + json.dumps(key, ensure_ascii=False) + ": ")
                body = f"{lead} {values[at]} {rest[0]}"
                self.add(f"{name}-from{at}{'b' if begun else ''}", body if key in required else f"{body} | {rest[1]}")
        return self.add(name, f'"{{" {name}-from0 "}}"')
