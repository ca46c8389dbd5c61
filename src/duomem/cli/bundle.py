"""The commands of bundles: bundle, verify, inspect, keygen, trust.

In: a run and a place; a bundle; keys. Out: a bundle, what it is, whether it is what its maker signed. Exit code 3: a bundle
that is not to be used. Not here: serving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json, Run

Trust = Annotated[
    Path | None,
    typer.Option(help="A file of public keys, in place of your own trust file.", metavar="FILE", show_default=False),
]
Unsigned = Annotated[bool, typer.Option("--allow-unsigned", help="Let a bundle pass that nobody signed.")]
BundlePath = Annotated[Path, typer.Argument(help="A bundle: a folder or a zip.", metavar="BUNDLE")]


def add_to(app: typer.Typer) -> None:
    for command in (bundle, verify, inspect, keygen, trust):
        app.command()(command)


def bundle(
    run: Run,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="NAME.duo or NAME.zip: one file; else a folder.", metavar="BUNDLE")
    ] = None,
    sign: Annotated[Path | None, typer.Option(help="A private key of `duomem keygen`.", metavar="KEY")] = None,
    arm: Annotated[str, typer.Option(help="memory, adapter or both, in place of the decision's.")] = "",
    seed: Annotated[int | None, typer.Option(help="Whose parts, of a run of several seeds; by default the first's.")] = None,
    gguf: Annotated[str, typer.Option(help="For llama.cpp: adapter, merged (base and adapter in one), none; auto.")] = "auto",
    weights: Annotated[str, typer.Option(help="Precision of a merged GGUF: f32, f16, q8_0, q4_0, ...")] = "f32",
    games: Annotated[int, typer.Option(help="Most games to score a quantised student again on; 0: its words.", min=0)] = 600,
    parity: Annotated[int, typer.Option(help="Recorded episodes to hold it to; 0: none.", min=0)] = 24,
    largest: Annotated[float, typer.Option("--max-mb", help="Most megabytes of adapter, bank and embedder.")] = 10.0,
    version: Annotated[int | None, typer.Option(help="Its version; by default one more where anything changed.", min=1)] = None,
    name: Annotated[str, typer.Option(help="Its name, in place of the run's.")] = "",
    licence: Annotated[str, typer.Option(help="Its licence, for the model card.")] = "other",
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Make one signed artefact of what a run's decision ships, after recorded requests have been replayed through it.

    Examples:

      duomem bundle runs/mine -o my.duo --sign ~/.config/duomem/key

      duomem bundle runs/mine -o my-bundle/ --arm both

      duomem bundle runs/mine -o my.duo --gguf merged --weights q8_0
    """
    from duomem.bundle import Options, write_bundle
    from duomem.bundle.write import told
    from duomem.errors import UsageError
    from duomem.rundir import open_run
    from duomem.talk import Talk

    kinds = ("auto", "adapter", "merged", "none")
    if gguf not in kinds:
        raise UsageError(f"--gguf {gguf!r}. There are: {', '.join(kinds)}.")
    folder = open_run(run, keep=False)
    out = out or run / f"{name or folder.settings.run.name}.duo"
    options = Options(arm, seed, sign, version, name, licence, cast(Any, gguf), weights, games, parity, largest)
    done = told(write_bundle(folder, out, options, Talk(note=terminal.note)), out)
    if not sign:
        terminal.note("Not signed: who serves it must say --allow-unsigned. Make a key with: duomem keygen")
    terminal.result(done.data, done.words)


def verify(
    path: BundlePath,
    trust: Trust = None,
    allow_unsigned: Unsigned = False,
    base: Annotated[str, typer.Option(help="The base's folder, where the bundle's is not here.", metavar="DIR")] = "",
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Check that a bundle is what somebody you trust signed: signature, every hash, the form of every part, the base.

    Examples:

      duomem verify my.duo

      duomem verify my.duo --trust maker.pub
    """
    from duomem.bundle import open_bundle

    with open_bundle(path, trust=trust, allow_unsigned=allow_unsigned, base=base) as opened:
        said, signed = opened.manifest, opened.signed
    who = f"signed by {signed.key.name} ({signed.key.fingerprint[:16]})" if signed else "signed by nobody"
    if signed is None:
        terminal.note(f"Warning: {path} is signed by nobody. Its files agree with each other; anybody may have written them.")
    data = {"bundle": str(path), "name": said.name, "version": said.version, "signed_by": signed.key.name if signed else None}
    terminal.result(data, f"{said.name} version {said.version} is whole: {len(said.members)} files, {who}")


def inspect(path: BundlePath, trust: Trust = None, json_: Json = False, debug: Debug = False) -> None:
    """Show what a bundle holds, where it is from and what was measured, on one page. It needs no trust and loads nothing.

    Examples:

      duomem inspect my.duo

      duomem inspect my.duo --json
    """
    from duomem.bundle import page
    from duomem.bundle.read import look

    manifest, signed, signature = look(path, trust)
    terminal.result(page.data(manifest, signed, signature), page.page(manifest, signature))


def keygen(
    path: Annotated[Path | None, typer.Argument(help="The private key; KEY.pub is the public one.", metavar="[KEY]")] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Make a pair of keys for signing bundles. DUOMEM_KEY_PASSPHRASE encrypts the private one.

    The private key is for `duomem bundle --sign`; the public one is for those who shall trust you: `duomem trust KEY.pub`.

    Examples:

      duomem keygen

      duomem keygen ~/keys/release
    """
    from duomem.bundle import keys

    private = path or keys.trust_file().with_name("key")
    public = private.with_name(f"{private.name}.pub")
    key = keys.keygen(private, public)
    data = {"private": str(private), "public": str(public), "fingerprint": key.fingerprint}
    terminal.result(data, f"{private} (keep it to yourself)\n{public} (give it to others)\nfingerprint {key.fingerprint}")


def trust(
    key: Annotated[Path, typer.Argument(help="A public key that you got from its owner.", metavar="KEY.pub")],
    name: Annotated[str, typer.Option(help="What to call its owner; by default the file's name.")] = "",
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Add a public key to your own trust file: bundles that its owner signed are used from now on.

    Example:

      duomem trust maker.pub --name "the lab"
    """
    from duomem.bundle import keys

    found = [keys.Key(name or each.name, each.pem) for each in keys.read_keys(key)]
    new = [keys.trust(each) for each in found]
    data = {"trust_file": str(keys.trust_file()), "added": sum(new), "fingerprints": [each.fingerprint for each in found]}
    words = [f"{each.name}: fingerprint {each.fingerprint}" for each in found]
    known = "" if all(new) else " (not all were new)"
    terminal.result(data, "\n".join([*words, f"in {keys.trust_file()}{known}"]))
