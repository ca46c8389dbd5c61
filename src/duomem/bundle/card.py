"""The model card: README.md of the bundle, with the metadata that the Hugging Face hub reads.

In: a manifest without its members. Out: the text, the same for the same manifest. Not here: figures of its own.
"""

from __future__ import annotations

from duomem.bundle.manifest import Base, Figure, Gguf, Manifest

_TITLES = {"none": "student alone", "memory": "with memories", "adapter": "with the adapter", "both": "with both"}


def card(found: Manifest, licence: str) -> str:
    """README.md. `licence` is an identifier of the hub's list, or "other"."""
    return "\n".join([_head(found, licence), *_body(found)]) + "\n"


def _head(found: Manifest, licence: str) -> str:
    lines = ["---", f"license: {licence}"]
    if found.base.source == "hub":
        lines += [f"base_model: {found.base.name}", f"base_model_relation: {'adapter' if found.adapter_sha256 else 'finetune'}"]
    lines += ["library_name: peft"] if found.adapter_sha256 else []
    lines += ["pipeline_tag: text-generation", "tags:", "- duomem"]
    lines += ["- lora"] if found.adapter_sha256 else []
    lines += ["- gguf"] if found.gguf else []
    return "\n".join([*lines, "---"])


def _body(found: Manifest) -> list[str]:
    verdict, data = found.verdict, found.data
    lines = [f"# {found.name}, version {found.version}", "", verdict.words, ""]
    lines += [f"| arm | success | 95% interval | games ({data.eval_split}) |", "|---|---:|---|---:|"]
    lines += [_row(arm, figure, arm == verdict.arm) for arm, figure in found.figures.items()]
    lines += ["", "Shipped: the arm in bold. Figures are over all seeds of the run; these are the parts of seed "]
    lines[-1] += f"{found.seed}. Rule of the decision: {verdict.rule}"
    lines += ["", "## Use it", "", "```sh", "duomem verify .", "duomem serve .", "```", "", *_use(found)]
    lines += ["## What it is made from", "", f"- base: {_base(found.base)}"]
    lines += [f"- teacher: {found.teacher.name}; licence or terms of its output: {found.teacher.licence}"]
    lines += [f"- {data.episodes} recorded episodes of {data.env}, split {data.train_split}, hash {data.episodes_sha256[:16]}"]
    if found.memory:
        memory = found.memory
        lines += [
            f"- {memory.count} memories; {memory.k} are shown, found by {memory.retrieval} search with {memory.embedder.name}"
        ]
    lines += [f"- made by duomem {found.duomem}" + (f", commit {found.commit}" if found.commit else "")]
    return lines


def _row(arm: str, figure: Figure, shipped: bool) -> str:
    mark = "**" if shipped else ""
    percent = f"{mark}{100 * figure.success:.1f}%{mark}"
    span = f"{100 * figure.low:.1f} to {100 * figure.high:.1f}"
    return f"| {mark}{_TITLES.get(arm, arm)}{mark} | {percent} | {span} | {figure.games} |"


def _use(found: Manifest) -> list[str]:
    """How other tools read the parts as they lie."""
    lines = []
    if found.adapter_sha256:
        lines += ["- PEFT: `PeftModel.from_pretrained(base, 'adapter')`; vLLM: `--enable-lora --lora-modules student=adapter`"]
    lines += [_gguf(each) for each in found.gguf]
    if found.memory:
        lines += ["- the memories: `bank.sqlite` (SQLite; `duomem memories list` reads a run's)"]
    return [*lines, ""] if lines else []


def _gguf(each: Gguf) -> str:
    how = f"`llama-server -m {each.path}`" if each.kind == "merged" else f"`llama-server -m BASE.gguf --lora {each.path}`"
    return f"- llama.cpp: {how} ({each.weights})"


def _base(base: Base) -> str:
    where = {
        "package": "ships with the package `duomem`",
        "hub": f"on the hub, revision {base.revision or 'as its hashes say'}",
        "folder": "a folder; `--base FOLDER` says where it is",
        "endpoint": "behind an endpoint of your own",
    }[base.source]
    return f"{base.name} ({where}); weights sha256 {base.weights_sha256[:16] or 'unknown'}"
