"""Keys and signatures: OpenSSF Model Signing's format (a DSSE envelope in a Sigstore bundle) with an EC key, offline.

In: a PEM key, names and hashes of files. Out: the text of `model.sig`, which `model_signing verify key` accepts too; and back,
the names and hashes that a trusted key signed. Trust comes from a file of the user's own, never from a bundle. Not here:
hashing files, Sigstore's identities and logs (they need a network).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duomem.errors import DataError, MissingExtra, UsageError

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
"""The constants of OpenSSF Model Signing 1.0."""

IGNORED = ("model.sig", ".git", ".gitattributes", ".cache")
"""What a signature leaves out: itself, and what Git and the hub's client lay beside a repository's files. Never read."""

LARGEST = 4 * 2**20
"""Bytes of a signature or key file that are read at most."""

PASSPHRASE = "DUOMEM_KEY_PASSPHRASE"
"""Environment variable; where it is set, `keygen` encrypts the private key with it and signing asks it."""

_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", re.S)


@dataclass(frozen=True, slots=True)
class Key:
    """A public key that the user trusts. `fingerprint` is sha256 of its PEM text, as the signature names it."""

    name: str
    pem: str

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.pem.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Signed:
    """What a trusted key signed: sha256 by the path of each file."""

    key: Key
    subject: str
    files: dict[str, str]


class Untrusted(DataError):
    """Nothing is wrong with a bundle but that nobody whom the user trusts has signed it."""


def trust_file() -> Path:
    """The user's own trust file: $XDG_CONFIG_HOME/duomem/trust.pem, else under ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "duomem" / "trust.pem"


def keygen(private: Path, public: Path) -> Key:
    """A new key pair (P-256). Raises `UsageError` where a file is there already: a key is never overwritten."""
    _, ec, serialization = _cryptography()
    for path in (private, public):
        if path.exists():
            raise UsageError(f"{path} exists already, and a key is never overwritten. Choose another name.")
    made = ec.generate_private_key(ec.SECP256R1())
    phrase = os.environ.get(PASSPHRASE, "").encode()
    how = serialization.BestAvailableEncryption(phrase) if phrase else serialization.NoEncryption()
    text = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    private.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    key = Key(public.stem, _pem(made.public_key()))
    public.write_text(key.pem, encoding="utf-8")
    return key


def read_keys(path: Path) -> tuple[Key, ...]:
    """The public keys of a file: PEM blocks, each named by the comment line before it. Raises `UsageError`."""
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path} is too large for a file of keys.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Trusted keys {path}: {error}. Make a key with: duomem keygen") from error
    found = []
    for block in _BLOCK.finditer(text):
        if "PRIVATE" in block[1]:
            raise UsageError(f"{path} holds a private key. Trust files hold public ones (.pub); keep the other to yourself.")
        comment = text[: block.start()].rstrip().rpartition("\n")[2]
        name = comment.lstrip("# ").strip() if comment.startswith("#") else path.stem
        found.append(Key(name, _pem(_public(block[0], path))))
    if not found:
        raise UsageError(f"{path} holds no public key in PEM form. Make one with: duomem keygen")
    return tuple(found)


def trust(key: Key, path: Path | None = None) -> bool:
    """Add a key to the user's trust file; False where it is there already."""
    path = path or trust_file()
    if path.is_file() and key.fingerprint in {known.fingerprint for known in read_keys(path)}:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        name = " ".join(key.name.split())
        file.write(f"# {name}\n{key.pem}")
    return True


def sign(files: Mapping[str, str], subject: str, private: Path) -> bytes:
    """The text of a signature over files, given as sha256 (hex) by path. Raises `UsageError` for a key that is none."""
    hashes, ec, _ = _cryptography()
    key = _private(private)
    payload = json.dumps(_statement(files, subject), indent=2).encode()
    signature = key.sign(_pae(payload), ec.ECDSA(_hash_of(key.public_key(), hashes)))
    pem = _pem(key.public_key())
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": hashlib.sha256(pem.encode()).hexdigest()}, "tlogEntries": []}
    whole = {"mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(whole).encode()


def verify(signature: bytes, keys: Sequence[Key], where: str) -> Signed:
    """What the signature covers. Raises `DataError` unless one of `keys` made it and it has exactly the expected form."""
    hashes, ec, _ = _cryptography()
    from cryptography.exceptions import InvalidSignature

    try:
        whole = json.loads(signature)
        envelope, hint = whole["dsseEnvelope"], str(whole["verificationMaterial"]["publicKey"]["hint"])
        (one,) = envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        proof = base64.b64decode(one["sig"], validate=True)
        known_form = whole["mediaType"] == MEDIA_TYPE and envelope["payloadType"] == PAYLOAD_TYPE
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise DataError(f"{where}: its signature cannot be read. It was damaged or is none.") from error
    key = next((key for key in keys if key.fingerprint == hint), None)
    if key is None:
        raise Untrusted(
            f"{where} was signed by a key that you do not trust (fingerprint {hint[:16]}). If you know its owner, get the "
            "public key from them and add it: duomem trust KEY.pub"
        )
    public = _public(key.pem, key.name)
    try:
        public.verify(proof, _pae(payload), ec.ECDSA(_hash_of(public, hashes)))
    except InvalidSignature as error:
        raise DataError(f"{where}: the signature is wrong: it names {key.name!r}, who did not sign this.") from error
    if not known_form:
        raise DataError(f"{where}: its signature is of another kind than OpenSSF model signing 1.0.")
    subject, files = _read_statement(payload, where)
    return Signed(key, subject, files)


def _statement(files: Mapping[str, str], subject: str) -> dict[str, Any]:
    names = sorted(files)
    root = hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in names)).hexdigest()
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(IGNORED)}
    resources = [{"name": name, "algorithm": "sha256", "digest": files[name]} for name in names]
    return {
        "_type": STATEMENT,
        "subject": [{"name": subject, "digest": {"sha256": root}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": how, "resources": resources},
    }


def _read_statement(payload: bytes, where: str) -> tuple[str, dict[str, str]]:
    """A signed statement is checked too: the key may have signed something else than a model."""
    try:
        said = json.loads(payload)
        (subject,) = said["subject"]
        listed = said["predicate"]["resources"]
        files = {str(each["name"]): str(each["digest"]) for each in listed}
        ours = _statement(files, str(subject["name"]))
        right = all(said[name] == ours[name] for name in ("_type", "predicateType", "subject"))
        right = right and len(files) == len(listed) and all(each["algorithm"] == "sha256" for each in listed)
        right = right and said["predicate"]["serialization"]["method"] == "files"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where}: what was signed is no model: {error}.") from error
    if not right:
        raise DataError(f"{where}: what was signed is no bundle of this kind.")
    return str(subject["name"]), files


def _pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is really signed."""
    return b" ".join([b"DSSEv1", str(len(PAYLOAD_TYPE)).encode(), PAYLOAD_TYPE.encode(), str(len(payload)).encode(), payload])


def _hash_of(public: Any, hashes: Any) -> Any:
    """Model signing's choice of hash for a curve."""
    return {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}[public.curve.key_size]()


def _private(path: Path) -> Any:
    _, ec, serialization = _cryptography()
    phrase = os.environ.get(PASSPHRASE, "").encode() or None
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), phrase)
    except TypeError as error:
        raise UsageError(f"{path}: the key is encrypted and {PASSPHRASE} is not set, or the other way round.") from error
    except OSError as error:
        raise UsageError(f"The private key {path} cannot be read: {error.strerror}. Make one with: duomem keygen") from error
    except ValueError as error:
        raise UsageError(f"{path} holds no private key, or {PASSPHRASE} is not its passphrase.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{path} is no elliptic-curve key. Make one with: duomem keygen")
    _curve(key.public_key(), path)
    return key


def _public(pem: str, where: object) -> Any:
    _, ec, serialization = _cryptography()
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError as error:
        raise UsageError(f"{where} holds a damaged public key.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError(f"{where} holds a key that is no elliptic-curve key. Make one with: duomem keygen")
    _curve(key, where)
    return key


def _curve(key: Any, where: object) -> None:
    if key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise UsageError(f"{where}: the curve {key.curve.name} is none of model signing's (P-256, P-384, P-521).")


def _pem(public: Any) -> str:
    serialization = _cryptography()[2]
    text: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise MissingExtra("cryptography", "bundle") from error
    return hashes, ec, serialization
