"""Embedders: unit vectors, pure functions of a text, the same on every machine; and what the lexical one is for."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duomem import embed
from duomem.errors import DataError, MissingExtra, UsageError
from duomem.vectors import Index, best, quantise

FIXED = ["put a clean mug in cabinet.", "look at cd under the desklamp.", "", "Zwei 2 Äpfel, bitte!"]
LEXICAL_HASH = "7cbf591a0d498277"
MINILM_COSINE = 0.88769
MINILM_NEAREST = {"a hot cup of coffee": "warm mug of espresso", "the cat sleeps": "a kitten is napping"}


def made(name: str) -> embed.Embedder:
    try:
        return embed.build(name)
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["lexical", "minilm"])
def test_vectors_are_unit_and_do_not_depend_on_the_batch(name: str) -> None:
    embedder = made(name)
    vectors = embedder.embed(FIXED)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(FIXED), embedder.dim)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    fresh = made(name)
    alone = np.concatenate([fresh.embed([text]) for text in reversed(FIXED)])[::-1]
    assert np.array_equal(vectors, alone)
    assert fresh.revision == embedder.revision
    assert embedder.embed([]).shape == (0, embedder.dim)


def test_a_blend_has_the_mean_of_its_parts_cosines() -> None:
    parts = embed.Lexical(256), embed.Lexical(512)
    blend = embed.Blend(*parts, share=0.25)
    mixed, first, second = (embedder.embed(FIXED) for embedder in (blend, *parts))
    assert blend.dim == 768
    assert np.allclose(mixed @ mixed.T, 0.25 * first @ first.T + 0.75 * second @ second.T, atol=1e-6)
    assert blend.revision != embed.Blend(*parts).revision


def test_lexical_vectors_are_the_same_on_every_machine() -> None:
    codes = quantise(embed.build("lexical").embed(FIXED)).tobytes()
    assert hashlib.sha256(codes).hexdigest()[:16] == LEXICAL_HASH, "vectors moved: raise the revision in Lexical"
    code = (
        "from duomem import embed; from duomem.vectors import quantise; import hashlib;"
        f"print(hashlib.sha256(quantise(embed.build('lexical').embed({FIXED!r})).tobytes()).hexdigest()[:16])"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True).stdout
        for seed in ("1", "2")
    }
    assert said == {LEXICAL_HASH + "\n"}


def nearest(embedder: embed.Embedder, query: str, keys: Sequence[str]) -> str:
    index = Index(quantise(embedder.embed(keys)))
    return keys[int(best(index.cosines(quantise(embedder.embed([query]))[0]), 1)[0])]


@pytest.mark.parametrize(
    ("query", "right", "wrong"),
    [
        ("put a clean mug in cabinet.", "put a clean fork in drawer.", "put a hot mug in cabinet."),
        ("put a mug in cabinet.", "put a pen in drawer.", "put a clean mug in shelf."),
        ("cool some mug and put it in shelf.", "cool some egg and put it in fridge.", "clean some mug and put it in shelf."),
        ("put two cd in safe.", "put two pen in desk.", "put a cd in safe."),
        ("look at cd under the desklamp.", "look at book under the desklamp.", "put a cd in desk."),
        ("put a clean mug in cabinet.", "clean some mug and put it in shelf.", "cool some mug and put it in cabinet."),
    ],
)
def test_lexical_goes_by_the_word_that_decides(query: str, right: str, wrong: str) -> None:
    assert nearest(embed.build("lexical"), query, [wrong, right]) == right


def test_the_object_decides_between_tasks_of_one_form() -> None:
    keys = ["put a clean fork in cabinet.", "put a clean mug in drawer.", "put a clean pan in cabinet."]
    assert nearest(embed.build("lexical"), "put a clean mug in cabinet.", keys) == keys[1]


def test_minilm_knows_meaning_without_sentence_transformers() -> None:
    embedder = made("minilm")
    keys = list(MINILM_NEAREST.values())
    for query, key in MINILM_NEAREST.items():
        assert nearest(embedder, query, keys) == key
    # The package's own model gives this cosine for the pair (all-MiniLM-L6-v2, mean pooling, normalised).
    pair = embedder.embed(["put a clean mug in cabinet.", "put a hot mug in cabinet."])
    assert float(pair[0] @ pair[1]) == pytest.approx(MINILM_COSINE, abs=2e-4)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"duomem\[embed\]"):
        embed.build("minilm")


def test_an_unknown_embedder_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="lexical"):
        embed.build("word2vec")


def test_importing_costs_no_torch() -> None:
    heavy = ("torch", "transformers", "sentence_transformers")
    code = f"import sys, duomem.bank, duomem.embed; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_has_a_lexical_vector(text: str) -> None:
    (vector,) = embed.build("lexical").embed([text])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


# ------------------------------------------------------------------------------------------------------------- exact search


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 20), st.integers(0, 25))
@settings(max_examples=60, deadline=None)
def test_search_equals_whole_number_arithmetic_with_ties(seed: int, rows: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-2, 3, (rows, dim)).astype(np.int8)  # few values, so ties abound
    query = rng.integers(-127, 128, dim).astype(np.int8)
    scores = Index(codes).cosines(query)

    def exact(row: int) -> tuple[float, int]:
        a, b = [int(value) for value in codes[row]], [int(value) for value in query]
        squares = sum(x * x for x in a) * sum(y * y for y in b)
        return -(sum(x * y for x, y in zip(a, b, strict=True)) / max(squares, 1) ** 0.5), row

    assert list(best(scores, k)) == sorted(range(rows), key=exact)[:k]


def test_scores_are_exact_at_full_size() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(-127, 128, (500, 1024)).astype(np.int8)
    codes[1] = codes[0]
    codes[2:4] = 127
    whole = codes.astype(np.int64)
    for query in (0, 2):
        dots, squares = whole @ whole[query], (whole**2).sum(1)
        assert np.array_equal(Index(codes).cosines(codes[query]), dots / np.sqrt(squares.astype(float) * float(squares[query])))
    assert Index(codes).cosines(codes[0])[0] == 1.0


def test_int8_codes_keep_float32_cosines() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = Index(quantise(vectors)).cosines(quantise(vectors[:1])[0])
    assert np.abs(cosines - vectors @ vectors[0]).max() < 0.003


def test_too_many_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="1024"):
        quantise(np.zeros((1, 1025), dtype=np.float32))


def by_torch(texts: Sequence[str]) -> np.ndarray:
    """The same model as transformers computes it."""
    torch = pytest.importorskip("torch", reason="compares with the extra 'train'")
    transformers = pytest.importorskip("transformers", reason="compares with the extra 'train'")
    folder = embed.minilm_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        with torch.inference_mode():
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
            rows.append(torch.nn.functional.normalize(model(**ids).last_hidden_state[0].mean(0), dim=0).numpy())
    return np.stack(rows)


def top(queries: np.ndarray, keys: np.ndarray, k: int = 5) -> list[list[int]]:
    return np.argsort(-(queries @ keys.T), axis=1, kind="stable")[:, :k].tolist()


def test_minilm_without_torch_finds_what_it_finds_with_torch(tmp_path: Path) -> None:
    """The same top 5 on a set of instructions, in float32 and from the float16 folder that a bundle carries."""
    here = made("minilm")
    actions = ["put a clean {}", "heat some {} and put it", "find two {} and put them", "look at {} under the desklamp, not"]
    things = ["mug", "soapbar", "alarm clock", "Äpfel 🙂", "credit card", "very old and rather long wooden spoon"]
    places = ["in the cabinet.", "on countertop"]
    keys = [f"{action.format(thing)} {place}" for action in actions for thing in things for place in places]
    queries = ["cool a tomato and put it in the microwave", "mug", *FIXED, *(f"please {key} now" for key in keys[::5])]
    wanted_keys, wanted_queries = by_torch(keys), by_torch(queries)
    wanted = top(wanted_queries, wanted_keys)
    assert np.abs(here.embed(keys) - wanted_keys).max() < 1e-6
    assert top(here.embed(queries), here.embed(keys)) == wanted
    assert embed.pack("minilm", tmp_path / "half")
    half = embed.build("minilm", tmp_path / "half")
    assert half.revision != here.revision
    assert np.abs(half.embed(keys) @ half.embed(keys).T - wanted_keys @ wanted_keys.T).max() < 1e-3
    assert top(half.embed(queries), half.embed(keys)) == wanted
    assert not embed.pack("lexical", tmp_path / "none")


def test_a_folder_without_the_model_says_so(tmp_path: Path) -> None:
    made("minilm")
    with pytest.raises(DataError, match=r"holds no model\.safetensors"):
        embed.build("minilm", tmp_path).embed(["mug"])
