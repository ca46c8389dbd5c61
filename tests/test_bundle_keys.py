"""Keys, signatures and the commands for them."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

import bundle_world as world
from bundle_world import Shell
from duomem.bundle import keys
from duomem.errors import DataError, UsageError

FILES = {"manifest.json": "a" * 64, "README.md": "b" * 64}


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(keys.PASSPHRASE, raising=False)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.keygen(tmp_path / "key", tmp_path / "key.pub")
    return tmp_path / "key"


def test_what_is_signed_is_read_back(key: Path) -> None:
    trusted = keys.read_keys(key.with_name("key.pub"))
    signed = keys.verify(keys.sign(FILES, "mine", key), trusted, "it")
    assert (signed.files, signed.subject, signed.key.name) == (FILES, "mine", "key")


def test_a_private_key_is_for_its_owner_alone_and_never_overwritten(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        keys.keygen(key, key.with_name("new.pub"))
    assert key.read_bytes() == before
    with pytest.raises(UsageError, match="private key"):
        keys.read_keys(key)


def test_a_passphrase_encrypts_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.PASSPHRASE, "open sesame")
    keys.keygen(tmp_path / "locked", tmp_path / "locked.pub")
    assert b"ENCRYPTED" in (tmp_path / "locked").read_bytes()
    keys.sign(FILES, "mine", tmp_path / "locked")
    monkeypatch.setenv(keys.PASSPHRASE, "wrong")
    with pytest.raises(UsageError) as error:
        keys.sign(FILES, "mine", tmp_path / "locked")
    assert "wrong" not in str(error.value)  # a secret is no part of a message
    monkeypatch.delenv(keys.PASSPHRASE)
    with pytest.raises(UsageError, match=keys.PASSPHRASE):
        keys.sign(FILES, "mine", tmp_path / "locked")


def test_a_signature_over_something_else_than_a_model_is_none(key: Path) -> None:
    """The same key may sign other things: a statement of another kind must not pass for a bundle."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    trusted = keys.read_keys(key.with_name("key.pub"))
    whole = json.loads(keys.sign(FILES, "mine", key))
    said = json.loads(base64.b64decode(whole["dsseEnvelope"]["payload"]))
    changes = (
        {"predicateType": "https://slsa.dev/provenance/v1"},
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"subject": [{"name": "mine", "digest": {"sha256": "0" * 64}}]},
        {"subject": []},
        {"predicate": {"resources": [*said["predicate"]["resources"]] * 2, "serialization": {"method": "files"}}},
        {"predicate": {"resources": said["predicate"]["resources"], "serialization": {"method": "shards"}}},
        {"predicate": {}},
    )
    for change in changes:
        payload = json.dumps(said | change).encode()
        proof = keys._private(key).sign(keys._pae(payload), ec.ECDSA(hashes.SHA256()))
        whole["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        whole["dsseEnvelope"]["signatures"] = [{"sig": base64.b64encode(proof).decode(), "keyid": ""}]
        with pytest.raises(DataError):
            keys.verify(json.dumps(whole).encode(), trusted, "it")


def test_a_signature_is_bound_to_its_payload(key: Path) -> None:
    trusted = keys.read_keys(key.with_name("key.pub"))
    whole = json.loads(keys.sign(FILES, "mine", key))
    other = json.loads(keys.sign({"README.md": "c" * 64}, "mine", key))
    whole["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    with pytest.raises(DataError, match="signature is wrong"):
        keys.verify(json.dumps(whole).encode(), trusted, "it")
    with pytest.raises(keys.Untrusted):
        keys.verify(keys.sign(FILES, "mine", key), (), "it")


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    for name, made in (("ed25519", ed25519.Ed25519PrivateKey.generate()), ("k1", ec.generate_private_key(ec.SECP256K1()))):
        text = made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pub").write_bytes(text)
        with pytest.raises(UsageError, match=r"elliptic-curve key|none of model signing's"):
            keys.read_keys(tmp_path / f"{name}.pub")
    (tmp_path / "no.pub").write_text("hello")
    with pytest.raises(UsageError, match="no public key"):
        keys.read_keys(tmp_path / "no.pub")
    with pytest.raises(UsageError, match="duomem keygen"):
        keys.read_keys(tmp_path / "none.pub")


def test_a_trust_file_names_its_keys(key: Path, tmp_path: Path) -> None:
    (found,) = keys.read_keys(key.with_name("key.pub"))
    assert keys.trust(keys.Key("the lab", found.pem))
    assert not keys.trust(found)  # it is there already, whatever it is called
    keys.keygen(tmp_path / "second", tmp_path / "second.pub")
    assert keys.trust(*keys.read_keys(tmp_path / "second.pub"))
    assert [each.name for each in keys.read_keys(keys.trust_file())] == ["the lab", "second"]


def test_model_signing_reads_what_we_sign_and_the_other_way_round(key: Path, tmp_path: Path) -> None:
    signing = pytest.importorskip("model_signing.signing", reason="model-signing is not installed")
    verifying = pytest.importorskip("model_signing.verifying", reason="model-signing is not installed")
    folder = world.made(tmp_path / "bundle", key)
    verifying.Config().use_elliptic_key_verifier(public_key=key.with_name("key.pub")).verify(folder, folder / "model.sig")
    (folder / "model.sig").unlink()
    signing.Config().use_elliptic_key_signer(private_key=key).sign(folder, folder / "model.sig")
    from duomem.bundle import open_bundle

    open_bundle(folder, trust=key.with_name("key.pub")).close()


@pytest.fixture
def duomem(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    return Shell(monkeypatch, capsys)


def test_the_commands_from_key_to_trust(tmp_path: Path, duomem: Shell) -> None:
    """keygen, verify, trust, verify, inspect, as a maker and a user type them."""
    code, out, err = duomem("keygen", tmp_path / "key", "--json")
    assert code == 0, err
    assert "PRIVATE" not in out + err
    bundle = world.zipped(world.made(tmp_path / "folder", tmp_path / "key"), tmp_path / "my.duo")
    code, _, err = duomem("verify", bundle)
    assert (code, "you trust no key yet" in err) == (3, True)
    code, out, err = duomem("inspect", bundle)
    assert code == 0, err
    assert "a key that you do not trust" in out
    assert duomem("trust", tmp_path / "key.pub", "--name", "the lab")[0] == 0
    assert json.loads(duomem("verify", bundle, "--json")[1])["signed_by"] == "the lab"
    page = duomem("inspect", bundle)[1]
    for words in ("hand-made, version 3", "the lab, whom you trust", "5 at version 1", "bank.sqlite", "expert", "Ship both."):
        assert words in page
    data = json.loads(duomem("inspect", bundle, "--json")[1])
    assert data["signed"] is True
    assert data["manifest"]["memory"]["k"] == 2
    bundle.write_bytes(bundle.read_bytes()[:-40])
    assert duomem("inspect", bundle)[0] == 3


def test_inspect_writes_no_control_characters(tmp_path: Path, duomem: Shell) -> None:
    def change(folder: Path, tables: dict[str, Any]) -> None:
        tables["verdict"] = {**tables["verdict"], "words": "\x1b]0;owned\x07\x1b[2J\u202egnihton"}

    world.made(tmp_path / "folder", None, change)
    shown = duomem("inspect", tmp_path / "folder")[1]
    assert "gnihton" in shown
    assert not set("\x1b\x07\u202e") & set(shown)


def test_an_unsigned_bundle_passes_with_a_warning_only_when_allowed(tmp_path: Path, duomem: Shell) -> None:
    world.made(tmp_path / "folder", None)
    assert duomem("verify", tmp_path / "folder")[0] == 3
    code, _, err = duomem("verify", tmp_path / "folder", "--allow-unsigned")
    assert code == 0
    assert "Warning" in err
