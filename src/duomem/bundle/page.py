"""What a bundle is, on one page for a person: `duomem inspect`.

In: a manifest and who signed it. Out: plain text, and the same as data for programs. Not here: checks.
"""

from __future__ import annotations

from typing import Any

from duomem.bundle.keys import Signed
from duomem.bundle.manifest import Manifest
from duomem.bundle.sizes import held, sizes, words

_WIDTH = 14


def page(found: Manifest, signature: str) -> str:
    """The page. `signature` says in words who signed it and whether that counts here."""
    base, data, memory = found.base, found.data, found.memory
    rows = [
        ("", f"{found.name}, version {found.version} (bundle format {found.format}, duomem {found.duomem})"),
        ("signature", signature),
        ("ships", found.verdict.words),
        *(("" if at else "figures", line) for at, line in enumerate(_figures(found))),
        ("base", f"{base.name}, {base.source}" + (f", revision {base.revision}" if base.revision else "")),
        ("", f"weights {_short(base.weights_sha256)}, tokenizer {_short(base.tokenizer_sha256)}"),
        ("", f"chat template {_short(base.template_sha256)}"),
        ("asked as", f"layout {found.layout_hash}, temperature {found.student.temperature:g}"),
        ("", f"{found.student.max_tokens} tokens an answer, {found.student.max_steps} turns an episode"),
    ]
    if found.adapter_sha256:
        rows.append(("adapter", f"LoRA, seed {found.seed}, {_short(found.adapter_sha256)}"))
    rows += [("gguf", f"{each.path}: {each.kind}, {each.weights}") for each in found.gguf]
    if memory:
        rows.append(
            ("memories", f"{memory.count} at version {memory.version}; {memory.k} are shown, {memory.tokens} tokens at most")
        )
        rows.append(
            ("", f"{memory.strategy}, {memory.retrieval} search, embedder {memory.embedder.name} {memory.embedder.revision}")
        )
        rows.append(("", f"int8 search gives what float32 gives in {100 * memory.agreement:.1f}% of checks"))
    rows += [
        ("task", f"{found.task.locator} (prompts of the layout are read by the layout)"),
        ("teacher", f"{found.teacher.name}; licence of its output: {found.teacher.licence}"),
        ("data", f"{data.episodes} episodes of {data.env}/{data.train_split}, {_short(data.episodes_sha256)}"),
        ("parity", _parity(found)),
        ("size", words(found)),
        *(
            ("" if at else "members", f"{each.size:>10}  {_short(each.sha256)}  {each.path}")
            for at, each in enumerate(found.members)
        ),
    ]
    return "\n".join(f"{title:<{_WIDTH}}{line}".rstrip() for title, line in rows)


def data(found: Manifest, signed: Signed | None, signature: str) -> dict[str, Any]:
    """The same for programs."""
    return {
        "manifest": found.model_dump(mode="json"),
        "signed": signed is not None,
        "signed_by": signed.key.name if signed else None,
        "fingerprint": signed.key.fingerprint if signed else None,
        "signature": signature,
        "bytes": sizes(found),
        "held_bytes": held(found),
    }


def _figures(found: Manifest) -> list[str]:
    split = found.data.eval_split
    return [
        f"{arm:<12}{100 * each.success:5.1f}%  [{100 * each.low:.1f}, {100 * each.high:.1f}]  {each.games} games of {split}"
        for arm, each in found.figures.items()
    ]


def _parity(found: Manifest) -> str:
    if found.parity is None:
        return "not held to recorded requests"
    return f"{found.parity.requests} recorded requests of {found.parity.episodes} episodes ({found.parity.against}): equal"


def _short(sha: str) -> str:
    return sha[:16] or "unknown"
