"""Takes secrets out of bodies before they reach the disk: the detectors of detect-secrets, patterns of our own, the user's.

In: texts and JSON values. Out: the same with `[redacted:KIND]` in a secret's place; equal texts become equal texts. Opaque
blobs are left as they are. The detectors that go by entropy alone are not used: they take the ids of ordinary data for keys.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from duomem.errors import MissingExtra, UsageError

OWN: tuple[tuple[str, str], ...] = (
    ("private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"),
    ("bearer token", r"(?i)\bbearer\s+([A-Za-z0-9._~+/=-]{16,})"),
    ("api key", r"\bsk-[A-Za-z0-9_-]{16,}"),
    ("api key", r"\bAIza[A-Za-z0-9_-]{35}"),
    ("github token", r"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    ("hub token", r"\bhf_[A-Za-z0-9]{30,}"),
    (
        "assigned secret",
        r"(?i)\b[\w-]*(?:api_?key|secret|token|passw(?:or)?d|pwd|credentials?)[\w-]*\s*[=:]\s*[\"'\\]*((?=[^\s\"',;]*\d)[^\s\"',;\\]{8,})",
    ),
)
"""Beside the library's: whole PEM blocks, keys of model endpoints, unquoted assignments. A group, if any, is the secret."""

KEYWORDS = re.compile(r"(?i)key|pass|pwd|secret|contrase")
"""A line without any of these holds nothing for the library's slow keyword detector, whose words they cover."""

DIGIT = re.compile(r"\d")
ENTROPY = ("Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector")
UNTOUCHED = frozenset(("encrypted_content", "signature"))
"""What endpoints sealed."""

OPAQUE = re.compile(r"(?:data:[\w/+.-]+;base64,)?[A-Za-z0-9+/=_-]{4096,}\Z")
"""Pictures and files: only known secrets are looked for in them."""

CACHED = 20_000
"""Texts remembered: a request repeats what came before it, which is not searched again."""


class Redactor:
    """Finds secrets; safe for many threads. `patterns` are the user's regular expressions.

    Raises `MissingExtra` without detect-secrets, `UsageError` for a pattern that is no regular expression.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._keyword, library = _library()
        self._patterns = [(kind, re.compile(pattern, re.DOTALL)) for kind, pattern in OWN] + library
        for pattern in patterns:
            try:
                self._patterns.insert(0, ("pattern", re.compile(pattern)))
            except re.error as error:
                raise UsageError(f"--redact {pattern!r} is no regular expression: {error}.") from error
        self._known: set[str] = set()
        self._cache: OrderedDict[bytes, str | None] = OrderedDict()
        self._lock = threading.Lock()

    def learn(self, secret: str) -> None:
        """A value to take out wherever it stands: the credentials of the requests that pass. Held in memory only.

        A short one, or one without a digit ("not-needed"), is no key, and would take ordinary words out.
        """
        with self._lock:
            if len(secret) >= 8 and DIGIT.search(secret) and secret not in self._known:
                self._known.add(secret)
                self._cache.clear()

    def value(self, value: Any, key: str = "") -> Any:
        """Any JSON value; `key` is the name that it stands under, which may tell that it is a secret."""
        if isinstance(value, str):
            value = value.encode("utf-8", "replace").decode()  # half a surrogate pair, which JSON allows, is no text
            return self._known_out(value) if key in UNTOUCHED else self._remembered(value, key)
        if isinstance(value, Mapping):
            return {name: self.value(each, name) for name, each in value.items()}
        if isinstance(value, Sequence):
            return [self.value(each, key) for each in value]
        return value

    def _remembered(self, text: str, key: str) -> str:
        """`text`, from the cache where the same was asked before; it holds hashes, and texts only where they changed."""
        if len(text) < 64:
            return self.text(text, key)
        name = hashlib.sha256(f"{key}\0{text}".encode(errors="surrogatepass")).digest()
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                found = self._cache[name]
                return text if found is None else found
        cleaned = self.text(text, key)
        with self._lock:
            self._cache[name] = None if cleaned == text else cleaned
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return cleaned

    def text(self, text: str, key: str = "") -> str:
        """One text. With a key such as "password" a text of one word is a secret, whatever it says."""
        text = self._known_out(text)
        if OPAQUE.match(text):
            return text
        if key and KEYWORDS.search(key) and "\n" not in text and (found := self._by_keyword(f'{key} = "{text}"')):
            return "[redacted:secret keyword]" if text in found else text
        for kind, pattern in self._patterns:
            text = pattern.sub(lambda match, kind=kind: _without(match, kind), text)  # type: ignore[misc]
        if KEYWORDS.search(text):
            text = "".join(self._line(line) for line in text.splitlines(keepends=True))
        return text

    def _known_out(self, text: str) -> str:
        for secret in tuple(self._known):
            if secret in text:
                text = text.replace(secret, "[redacted:credential]")
        return text

    def _line(self, line: str) -> str:
        while KEYWORDS.search(line) and (found := [each for each in self._by_keyword(line) if "[redacted:" not in each]):
            for secret in found:
                line = line.replace(secret, "[redacted:secret keyword]")
        return line

    def _by_keyword(self, line: str) -> list[str]:
        return [found for found in self._keyword.analyze_string(line) if found]


def _without(match: re.Match[str], kind: str) -> str:
    """The match less its secret: the first group if that is long enough to be one, else all of it."""
    secret = match[1] if match.re.groups and match[1] and len(match[1]) >= 8 else match[0]
    return match[0] if secret.startswith("[redacted:") else match[0].replace(secret, f"[redacted:{kind}]")


def _library() -> tuple[Any, list[tuple[str, re.Pattern[str]]]]:
    """The keyword detector of detect-secrets, and the expressions of its other detectors."""
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    except ImportError as error:
        raise MissingExtra("detect-secrets", "record") from error
    keyword: Any = None
    patterns: list[tuple[str, re.Pattern[str]]] = []
    classes: dict[str, Any] = get_mapping_from_secret_type_to_class()
    for kind, detector in classes.items():
        if detector.__name__ == "KeywordDetector":
            keyword = detector()
        elif detector.__name__ not in (*ENTROPY, "PrivateKeyDetector"):
            patterns += [(kind.lower(), pattern) for pattern in detector().denylist]
    return keyword, patterns
