"""GGUF files: llama.cpp says of them what transformers says of the originals; every precision loads and errs as it should."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gguf_bases
import tiny_models
from duomem.errors import DataError, UsageError
from duomem.models import hf, llamacpp
from duomem.models._gguf import write_base
from duomem.models._gguf_quants import KINDS, fitting, quantise
from duomem.types import Message, Sampling
from gguf_bases import FAMILIES, GREEDY, said, transcript

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("xllamacpp", reason="needs the extra 'llamacpp'")
gguf = pytest.importorskip("gguf", reason="needs the extra 'llamacpp'")
np = pytest.importorskip("numpy")

MATRIX_KINDS = [kind for kind in KINDS if kind != "f32"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Base and adapter of each family, made when asked for."""

    class Made(dict[str, tuple[str, str]]):
        def __missing__(self, name: str) -> tuple[str, str]:
            base = gguf_bases.base(name, tmp_path_factory.mktemp(name))
            self[name] = base, gguf_bases.adapter(base, tmp_path_factory.mktemp(f"{name}-adapter"))
            return self[name]

    return Made()


@pytest.fixture
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def build(path: str, **settings: Any) -> Any:
        folder = str(tmp_path_factory.getbasetemp() / "gguf-kept")
        made.append(llamacpp.build(llamacpp.Config(path=path, folder=folder, threads=1, max_batch=2, **settings)))
        return made[-1]

    yield build
    for model in made:
        model.close()


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_base_adapter_and_merged_say_what_transformers_says(
    load: Callable[..., Any], places: dict[str, tuple[str, str]], name: str
) -> None:
    base, adapter = places[name]
    answers = []
    for chosen in (None, adapter):
        reference = hf.build(hf.Config(path=base, adapter=chosen, threads=1))
        wanted = [said(transcript(reference, number)) for number in range(3)]
        reference.close()
        arms = [load(base, adapter=chosen), *([load(base, adapter=chosen, merge=True)] if chosen else [])]
        for arm in arms:
            assert [said(transcript(arm, number)) for number in range(3)] == wanted
        # At f16 caches and attention are rounded too; these random models stand on a knife's edge within a few tokens.
        half = load(base, adapter=chosen, weights="f16")
        assert [answer[0][:1] for answer in (said(transcript(half, number, 1))[0] for number in range(3))] == [
            answer[0][0][:1] for answer in wanted
        ]
        answers.append(wanted)
    assert answers[0] != answers[1], "the adapter does something"


def test_weights_in_bfloat16_are_read(tmp_path: Path, load: Callable[..., Any]) -> None:
    """Published models hold them; numpy has no such type."""
    base = gguf_bases.base("qwen3", tmp_path / "base")
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(base).to(torch.bfloat16).save_pretrained(base)
    reference = hf.build(hf.Config(path=base, threads=1, dtype="float32"))
    wanted = said(transcript(reference))
    reference.close()
    assert said(transcript(load(base))) == wanted


@pytest.mark.parametrize("kind", MATRIX_KINDS)
def test_a_quantised_matrix_errs_no_more_than_its_bits_allow(kind: Any) -> None:
    """Root mean square error of a normal matrix against the step of that many bits over its range of about +-3."""
    matrix = np.random.default_rng(0).normal(size=(16, 512)).astype(np.float32)
    data, target = quantise(matrix, kind)
    back = gguf.quants.dequantize(np.ascontiguousarray(data), target)
    error = float(np.sqrt(np.mean((back - matrix) ** 2)))
    bits = {"f16": 11, "bf16": 8}.get(kind) or int(kind[1])
    assert 0 < error < 6 / 2**bits
    assert data.nbytes * 8 / matrix.size < {"f16": 17, "bf16": 17}.get(kind, bits + 2)


def test_rows_that_no_block_divides_take_a_wider_kind() -> None:
    assert [fitting(kind, 192) for kind in ("q4_k", "q5_k", "q6_k", "q4_0")] == ["q5_0", "q5_1", "q8_0", "q4_0"]
    assert [fitting(kind, 48) for kind in ("q4_k", "q8_0", "f16")] == ["f32", "f32", "f16"]
    assert [fitting(kind, 1024, output=True) for kind in ("q4_0", "q5_1", "q8_0", "f16")] == ["q6_k", "q6_k", "q8_0", "f16"]


@pytest.mark.parametrize("kind", ["q8_0", "q5_k", "q5_0", "q4_k", "q4_0"])
def test_smaller_files_of_a_real_width_answer(
    tmp_path_factory: pytest.TempPathFactory, load: Callable[..., Any], kind: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "wide"
    if not folder.is_dir():
        tiny_models.model(folder, "llama", "pocket", hidden_size=256, intermediate_size=256, head_dim=64)
    model = load(str(folder), weights=kind)
    assert model.reply([Message.of("user", "You see mug 1.")], [], GREEDY).usage.completion > 0
    assert model.provenance()["weights"] == kind
    sizes = {file.stem.rpartition("-")[2]: file.stat().st_size for file in folder.parent.glob("gguf-kept/*.gguf")}
    if "q8_0" in sizes and kind != "q8_0":
        assert sizes[kind] < sizes["q8_0"]


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_the_pocket_student_says_the_same_in_16_and_8_bits(load: Callable[..., Any], kind: str) -> None:
    """A trained model's choices are clear ones, but for 8 bits and the odd text here. What they cost: `duomem.requantise`."""
    full, small = load("pocket"), load("pocket", weights=kind)
    same = [said(transcript(full, number)) == said(transcript(small, number)) for number in range(4)]
    assert sum(same) >= (3 if kind == "q8_0" else 4)


def test_files_made_elsewhere_are_taken(tmp_path: Path, places: dict[str, tuple[str, str]], load: Callable[..., Any]) -> None:
    """A merged file with nothing but a tokenizer beside it, as a bundle has them."""
    base, adapter = places["qwen3"]
    merged = write_base(Path(base), tmp_path / "m.gguf", "f32", adapter=Path(adapter))
    beside = tmp_path / "tokenizer"
    beside.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (beside / name).write_bytes((Path(base) / name).read_bytes())
    wanted = said(transcript(load(base, adapter=adapter)))
    assert said(transcript(load(str(beside), gguf=str(merged), context=512))) == wanted
    with pytest.raises(UsageError, match="merge = true needs"):
        load(base, merge=True)


def pieces(folder: Path) -> str:
    """A Gemma whose tokenizer cuts as SentencePiece does: spaces become a letter, unknown letters become bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    text, specials, eos, bos = tiny_models.TEMPLATES["gemma"]
    specials = ["<pad>", eos, bos or "", "<unk>", *specials[:2]]
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    alphabet = sorted(set(tiny_models.TEXT.replace(" ", "▁")))
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    raw.train_from_iterator([tiny_models.TEXT.splitlines()[0]] * 4 + tiny_models.TEXT.splitlines(), trainer)
    loose = json.loads(raw.to_str())
    # Bytes are plain entries of the vocabulary, not special tokens.
    loose["added_tokens"] = [token for token in loose["added_tokens"] if not token["content"].startswith("<0x")]
    raw = Tokenizer.from_str(json.dumps(loose))
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, bos_token=bos, unk_token="<unk>")
    made.chat_template = text
    return tiny_models.model(folder, "gemma3", made=made, **FAMILIES["gemma3"][2])


def test_pieces_like_gemma_s_are_read_and_cut_the_same(tmp_path: Path, load: Callable[..., Any]) -> None:
    from test_llamacpp import ask

    base = pieces(tmp_path / "base")
    reference = hf.build(hf.Config(path=base, threads=1))
    wanted = said(transcript(reference))
    assert said(transcript(load(base))) == wanted
    with llamacpp.serve(llamacpp.Config(path=base, folder=str(tmp_path), threads=1)) as served:
        for text in ("You see mug 1.  two  spaces", "naïve café — 汉字 🙂", " go to countertop 1"):
            found = ask(served.url.removesuffix("/v1") + "/tokenize", content=text)["tokens"]
            assert found == reference.tokenizer.encode(text, add_special_tokens=False)
    reference.close()


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("gemma3", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "order of layer_types"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("mistral", {"sliding_window": 64}, "sliding_window = 64"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "'yarn'"),
    ],
)
def test_what_the_engine_would_compute_otherwise_is_refused(
    tmp_path: Path, family: str, changes: dict[str, Any], words: str
) -> None:
    folder = Path(gguf_bases.base(family, tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(DataError, match=rf"{words}.*cannot be written.*student\.gguf"):
        write_base(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_greedy_is_greedy_at_any_precision(load: Callable[..., Any]) -> None:
    model = load("pocket", weights="q4_0")
    ask = [Message.of("user", "You see mug 1.")]
    assert model.reply(ask, [], GREEDY).message == model.reply(ask, [], Sampling(max_tokens=24, seed=7)).message
