"""Files to rows: JSON Lines, JSON documents (one object, a list, or several one after the other) and Parquet; also gzipped.

In: paths of files or folders. Out: `Row`s with file and line, and a `Bad` for what is no JSON object; the rest goes on. Nothing
is known here of what a row means.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from duomem.errors import MissingExtra, UsageError
from duomem.logs import Bad, Place, Row

ENDINGS = (".json", ".jsonl", ".ndjson", ".parquet", ".json.gz", ".jsonl.gz", ".ndjson.gz")
_LINES = (".jsonl", ".ndjson")
DEPTH = 100
"""Levels of a record; deeper ones are no log, and recursion over them would end the program."""


def files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those of the folders that end as logs do, sorted. Raises `UsageError` for a path that is not
    there."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and each.name.endswith(ENDINGS))
            if not inside:
                raise UsageError(f"{path} holds no file that ends in {', '.join(ENDINGS)}.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder. Name the log to import.")
    return list(dict.fromkeys(found))


def rows(path: Path) -> Iterator[Row | Bad]:
    """Every JSON object of a file, in order. Objects of a list on the top level, or under "data" of an API's page, are rows."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from _parquet(path)
        return
    place = Place(path.name, 1, name.partition(".")[0])
    if name.endswith(_LINES) or _first_line_is_whole(path):
        yield from _by_line(path, place)
    else:
        yield from _document(path, place)


def _read(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        yield from file


def _first_line_is_whole(path: Path) -> bool:
    """True where a file is JSON Lines whatever its name: its first line is an object, and others follow."""
    try:
        lines = _lines(path)
        first, second = next(lines, b""), next(lines, b"")
        return bool(second.strip()) and isinstance(json.loads(first.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError, OSError, EOFError):
        return False


def _by_line(path: Path, place: Place) -> Iterator[Row | Bad]:
    number = 0
    try:
        for number, line in enumerate(_lines(path), 1):
            here = Place(place.file, number, place.stem)
            if line.strip():
                yield from _value(line, here)
    except (EOFError, gzip.BadGzipFile) as error:
        yield Bad(Place(place.file, number + 1, place.stem), "", f"the file is damaged here: {error}")


def _value(line: bytes, place: Place) -> Iterator[Row | Bad]:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield Bad(place, "", f"not UTF-8: {error.reason} at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        yield Bad(place, "", f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        yield Bad(place, "", f"not JSON that can be read: {error}")
    else:
        yield from _objects(value, place)


def _document(path: Path, place: Place) -> Iterator[Row | Bad]:
    """Values one after the other; those of a list with the line on which each starts."""
    try:
        text = _read(path).decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        yield Bad(place, "", f"not UTF-8 text: {error}")
        return
    decoder, at, line, listed = json.JSONDecoder(), 0, 1, False
    while True:
        start = _next(text, at, ",]" if listed else "")
        line, at = line + text.count("\n", at, start), start
        if at == len(text):
            return
        if not listed and text[at] == "[":
            listed, at = True, at + 1
            continue
        here = Place(place.file, line, place.stem)
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield Bad(here, "", f"not JSON: {error}. What follows in this file was not read")
            return
        yield from _objects(value, here)
        line, at = line + text.count("\n", at, end), end


def _next(text: str, at: int, between: str) -> int:
    while at < len(text) and (text[at].isspace() or text[at] in between):
        at += 1
    return at


def _objects(value: object, place: Place) -> Iterator[Row | Bad]:
    if isinstance(value, dict) and isinstance(value.get("data"), list) and set(value) <= _PAGE:
        value = value["data"]
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            yield Bad(place, "", f"is {type(item).__name__}, not a JSON object")
        elif (flaw := _flaw(item))[1]:
            yield Bad(place, flaw[0].encode("utf-8", "replace").decode(), flaw[1])
        else:
            yield Row(item, place)


_PAGE = {"object", "data", "meta", "has_more", "first_id", "last_id"}
"""The keys of a page of an API that lists things (OpenAI, Langfuse)."""


def _flaw(record: dict[str, Any]) -> tuple[str, str]:
    """The first place at which a record cannot be kept, and why; two empty texts where it can."""
    todo: list[tuple[str, Any, int]] = [("", record, 0)]
    while todo:
        name, value, depth = todo.pop()
        if depth > DEPTH:
            return name[:80], f"is nested more than {DEPTH} deep"
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            return name or "record", "holds half a character (a lone surrogate), which no text file can keep"
        if isinstance(value, dict):
            todo += [(f"{name} (a key)", key, depth) for key in value]
            todo += [(f"{name}.{key}".lstrip("."), item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            todo += [(f"{name}[{index}]", item, depth + 1) for index, item in enumerate(value)]
    return "", ""


def _parquet(path: Path) -> Iterator[Row | Bad]:
    try:
        from pyarrow import ArrowInvalid  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("pyarrow", "train") from error
    number = 0
    try:
        for batch in ParquetFile(path).iter_batches():
            for body in batch.to_pylist():
                number += 1
                yield Row(body, Place(path.name, number, path.stem))
    except (ArrowInvalid, OSError) as error:
        yield Bad(Place(path.name, number + 1, path.stem), "", f"not Parquet that can be read: {error}")
