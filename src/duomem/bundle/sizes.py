"""How large a bundle is, part by part, and whether it is still the few megabytes that a device is given.

In: a manifest. Out: bytes by part. Megabytes are 10^6 bytes. The base is no part of a bundle; a merged GGUF, which holds it, is
counted apart.
"""

from __future__ import annotations

from collections import Counter

from duomem.bundle.manifest import ADAPTER, BANK, Manifest

HELD = ("adapter", "bank", "embedder")
"""The parts that are held to a few megabytes together (the paper's claim of a bank and an adapter)."""


def sizes(found: Manifest) -> dict[str, int]:
    """Bytes by part; parts that are not there are left out."""
    counted: Counter[str] = Counter()
    for member in found.members:
        counted[_part(member.path)] += member.size
    return dict(counted)


def _part(path: str) -> str:
    head = path.split("/")[0]
    if head == BANK:
        return "bank"
    if head in (ADAPTER, "gguf", "embedder", "tokenizer"):
        return head
    return "report" if head.startswith("report") else "rest"


def held(found: Manifest) -> int:
    """Bytes of the parts that count."""
    return sum(size for part, size in sizes(found).items() if part in HELD)


def words(found: Manifest) -> str:
    """One line for a person."""
    counted = sizes(found)
    parts = ", ".join(f"{part} {size / 1e6:.2f} MB" for part, size in sorted(counted.items(), key=lambda each: -each[1]))
    few = " + ".join(part for part in HELD if part in counted)
    return f"{parts}; {few}: {held(found) / 1e6:.2f} MB"


def too_large(found: Manifest, largest: float) -> str:
    """What to say where adapter, bank and embedder are more than `largest` megabytes together; else empty."""
    size = held(found) / 1e6
    if size <= largest:
        return ""
    return (
        f"Adapter, bank and embedder have {size:.1f} MB, more than {largest:g}: {words(found)}. Train with a smaller rank or "
        f"fewer targets (tuning.rank, tuning.targets), or allow it: --max-mb {size + 1:.0f}"
    )
