"""The pages' frame: one template that the built script fills, and a page that explains the endpoints.

In: a token, the OpenAPI document. Out: HTML, in which everything is escaped. Not here: what a view shows (the script's matter).
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from duomem import __version__
from duomem.errors import MissingExtra

if TYPE_CHECKING:
    from jinja2 import Environment


def page(token: str, title: str) -> str:
    """The frame of every view."""
    return _environment().get_template("page.html.j2").render(token=token, title=title, version=__version__)


def endpoints(document: dict[str, Any]) -> str:
    """The OpenAPI document as a page to read."""
    rows = [
        {"method": method.upper(), "path": path, "summary": about.get("summary", ""), "words": about.get("description", ""),
         "parameters": [_parameter(each) for each in about.get("parameters", [])], "body": _name(about.get("requestBody")),
         "answer": _name(about["responses"].get("200"))}
        for path, methods in document["paths"].items() for method, about in methods.items()
    ]  # fmt: skip
    schemas = {
        name: {"words": schema.get("description", ""), "fields": {
            field: {"type": _type(about), "words": about.get("description", "")}
            for field, about in schema.get("properties", {}).items()}}
        for name, schema in document["components"]["schemas"].items()
    }  # fmt: skip
    return _environment().get_template("api.html.j2").render(rows=rows, schemas=schemas, version=__version__)


def _parameter(about: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": about["name"],
        "needed": about.get("required", False),
        "type": _type(about["schema"]),
        "words": about.get("description", ""),
    }


def _name(about: dict[str, Any] | None) -> str:
    """The name of what a body or an answer holds."""
    for content in (about or {}).get("content", {}).values():
        return _type(content.get("schema", {}))
    return ""


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"]))
    if schema.get("type") == "array":
        inner = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list of {_type(inner)}"
    if "enum" in schema:
        return " | ".join(repr(each) for each in schema["enum"])
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    return str(schema.get("const", schema.get("type", "anything")))


@cache
def _environment() -> Environment:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("jinja2", "ui") from error
    sources = {
        entry.name: entry.read_text(encoding="utf-8") for entry in resources.files("duomem.ui").joinpath("templates").iterdir()
    }
    return jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
