"""The form of each kind of member: is it what its name says, found out without a library that would act on it.

In: a file of a bundle. Out: what it says of itself, or a `DataError`. Sizes and depths are bounded before anything is read.
Not here: hashes and signatures.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from duomem._bank_schema import BANK
from duomem.errors import DataError

LARGEST_TEXT = 64 * 2**20
"""Bytes of a JSON or text member; the vocabulary of a large model has 17 MB."""
LARGEST_HEADER = 16 * 2**20
"""Bytes of a safetensors header."""
LARGEST_ROW = 4 * 2**20
"""Bytes that a text of the bank may have when it is unpacked."""
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def text(path: Path, where: str) -> str:
    """A text member. Raises `DataError` for one that is too large or not UTF-8."""
    if path.stat().st_size > LARGEST_TEXT:
        raise DataError(f"{where} is too large for a text.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is no text: {error.reason} at byte {error.start}.") from error


def json_object(path: Path, where: str) -> dict[str, Any]:
    """A JSON object in which no key stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands there twice")
        return found

    try:
        value = json.loads(text(path, where), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no plain JSON: {error}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is no JSON object.")
    return value


def safetensors(path: Path, where: str) -> None:
    """Raises `DataError` unless the header describes the rest of the file exactly, each byte once."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(LARGEST_HEADER, size - 8):
            raise DataError(f"{where} is no safetensors file (a pickle, or cut). Only safetensors weights are read.")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            spans = sorted((*each["data_offsets"], each["dtype"], tuple(each["shape"])) for each in header.values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{where} is no safetensors file: its header cannot be read.") from error
    at = 0
    for start, end, dtype, shape in spans:
        count = 1
        for side in shape:
            count *= side if isinstance(side, int) and side >= 0 else -1
        if start != at or dtype not in DTYPES or end - start != count * DTYPES[dtype]:
            raise DataError(f"{where}: a tensor is not where, or not as large as, its header says.")
        at = end
    if at != size - 8 - length:
        raise DataError(f"{where} has {size - 8 - length - at} bytes that belong to no tensor.")


def bank(path: Path, where: str) -> None:
    """Raises `DataError` unless the file is a bank of the present schema, and of nothing else: no trigger, view or other table.

    Its marks are read as bytes first: SQLite sees no file that is none of ours.
    """
    with path.open("rb") as file:
        head = file.read(100)
    newest = len(BANK.steps)
    marks = head[:16], head[18:20], int.from_bytes(head[60:64]), int.from_bytes(head[68:72])
    if marks[0] != b"SQLite format 3\0" or marks[3] != BANK.application:
        raise DataError(f"{where} is no bank.")
    if marks[2] != newest:
        raise DataError(f"{where} has the unknown schema {marks[2]}; this duomem reads {newest}. Bundle the run again.")
    if marks[1] != b"\1\1":
        raise DataError(f"{where} is in a journal mode that needs writing. Bundle the run again.")
    try:
        with closing(read_only(path)) as db:
            if _schema(db) != _expected():
                raise DataError(f"{where} holds other tables, triggers or views than a bank has.")
            if (said := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise DataError(f"{where} is damaged: {said}.")
            _rows(db, where)
    except sqlite3.Error as error:
        raise DataError(f"{where} is damaged: {error}.") from error


def read_only(path: Path) -> sqlite3.Connection:
    """SQLite is told that the file never changes: it locks nothing and leaves nothing beside it."""
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
        db.execute(f"PRAGMA {pragma}")
    return db


def _schema(db: sqlite3.Connection) -> list[tuple[str, str]]:
    rows = db.execute("SELECT type, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return [(kind, " ".join(sql.split())) for kind, sql in rows]


def _expected() -> list[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as db:
        for step in BANK.steps:
            for statement in step:
                db.execute(statement)
        return _schema(db)


def _rows(db: sqlite3.Connection, where: str) -> None:
    """Raises `DataError` where a packed value would not unpack to something of reasonable size."""
    found = db.execute("SELECT value FROM meta WHERE name = 'dictionary'").fetchone()
    common = bytes(found[0]) if found else b""
    keys: dict[int, bytes] = {}
    for number, key, code in db.execute("SELECT id, key, code FROM keys"):
        keys[number] = _unpacked(key, common, where)
        _unpacked(code, b"", where)
    for number, text in db.execute("SELECT key, text FROM memories"):
        _unpacked(text, common + keys.get(number, b""), where)
    for (source,) in db.execute("SELECT provenance FROM sources"):
        _unpacked(source, common, where)


def _unpacked(packed: object, common: bytes, where: str) -> bytes:
    """As `_bank_schema.unpack` does it, within bounds."""
    if isinstance(packed, bytes) and packed[:1] == b"=":
        return packed[1:]
    if isinstance(packed, bytes) and packed[:1] == b"z":
        worker = zlib.decompressobj(-15, zdict=common) if common else zlib.decompressobj(-15)
        try:
            value = worker.decompress(packed[1:], LARGEST_ROW)
        except zlib.error as error:
            raise DataError(f"{where}: a memory cannot be unpacked: {error}.") from error
        if not worker.unconsumed_tail:
            return value
    raise DataError(f"{where}: a memory unpacks to more than {LARGEST_ROW // 2**20} MB, or is not packed as a bank's are.")


# ------------------------------------------------------------------------------------------------------------------- GGUF

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a GGUF value by its type (gguf specification, versions 2 and 3)."""
_STRING, _ARRAY = 8, 9
_MOST_KEYS, _MOST_ITEMS = 4096, 2**24


def gguf(path: Path, where: str) -> dict[str, str]:
    """The texts in a GGUF file's metadata by key ("tokenizer.chat_template", ...). Raises `DataError` for what is no GGUF."""
    found: dict[str, str] = {}
    with path.open("rb") as file:
        try:
            magic, version, _, keys = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3) or keys > _MOST_KEYS:
                raise DataError(f"{where} is no GGUF file that this duomem knows.")
            for _ in range(keys):
                key = _string(file, where)
                (kind,) = struct.unpack("<I", file.read(4))
                if kind == _STRING:
                    found[key] = _string(file, where)
                else:
                    _skip(file, kind, where)
        except struct.error as error:
            raise DataError(f"{where} was cut: its metadata ends too early.") from error
    return found


def _string(file: BinaryIO, where: str) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > LARGEST_HEADER:
        raise DataError(f"{where}: a text in its metadata is too long.")
    value = file.read(length)
    if len(value) < length:
        raise DataError(f"{where} was cut: its metadata ends too early.")
    return value.decode("utf-8", "replace")


def _skip(file: BinaryIO, kind: int, where: str) -> None:
    if kind in _SCALARS:
        file.seek(_SCALARS[kind], 1)
        return
    if kind != _ARRAY:
        raise DataError(f"{where}: its metadata has a value of the unknown type {kind}.")
    inner, count = struct.unpack("<IQ", file.read(12))
    if count > _MOST_ITEMS or (inner not in _SCALARS and inner != _STRING):
        raise DataError(f"{where}: its metadata has a list that is too long, or of lists.")
    if inner in _SCALARS:
        file.seek(_SCALARS[inner] * count, 1)
        return
    for _ in range(count):
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(length, 1)
