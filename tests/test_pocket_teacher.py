"""The pocket teacher: growth that changes nothing, what its corpus holds, and a tiny training run."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the train extra is not installed: nothing can be grown")
pytest.importorskip("alfworld", reason="the alfworld extra is not installed: the corpus is made in its rooms")

import torch

from duomem import weights
from duomem.errors import UsageError
from duomem.games.rooms import ROOMS
from duomem.memory._answers import About, steps_in
from duomem.memory._prompts import load_prompts
from duomem.pocket import corpus, teacher, teacher_corpus, train
from duomem.pocket.grow import grow, sources
from duomem.pocket.language import REAL_TASK
from duomem.pocket.play import Recipe
from duomem.prompts import load_layout, parse
from duomem.types import Example, Reply, digest


def logits(model: object) -> torch.Tensor:
    ids = torch.arange(4, 300).reshape(2, -1)
    with torch.no_grad():
        return model(input_ids=ids).logits  # type: ignore[operator]


def test_a_deeper_model_says_exactly_what_the_base_says() -> None:
    base = weights.load_base("pocket", dtype="float32").eval()
    grown = grow(base, 8, base.config.intermediate_size, 0)
    assert grown.config.num_hidden_layers == 8
    assert torch.equal(logits(grown), logits(base))


def test_a_wider_and_deeper_model_says_what_the_base_says() -> None:
    base = weights.load_base("pocket", dtype="float32").double().eval()
    grown = grow(base, teacher.LAYERS, teacher.INNER, 0)
    assert torch.allclose(logits(grown), logits(base), rtol=0, atol=1e-10)
    assert 3e6 < sum(parameter.numel() for parameter in grown.parameters()) < 20e6


def test_what_was_grown_can_learn() -> None:
    """Zero outputs are no dead end: the first gradient reaches them, and the second what feeds them."""
    base = weights.load_base("pocket", dtype="float32")
    grown = grow(base, 6, base.config.intermediate_size + 64, 0)
    (new,) = [index for index, (_, itself) in enumerate(sources(5, 6)) if not itself]
    layer = grown.model.layers[new]
    optimizer = torch.optim.SGD(grown.parameters(), lr=1.0)
    for weight in (layer.self_attn.o_proj.weight, layer.self_attn.q_proj.weight):
        optimizer.zero_grad()
        logits_now = grown(input_ids=torch.arange(4, 100)[None]).logits
        logits_now.logsumexp(-1).sum().backward()
        assert float(weight.grad.abs().sum()) > 0
        optimizer.step()


def test_growth_is_seeded_and_never_shrinks() -> None:
    base = weights.load_base("pocket", dtype="float32")
    one, two, other = (grow(base, 6, 600, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(UsageError, match="5 layers cannot be grown to 4"):
        grow(base, 4, 512, 0)
    with pytest.raises(UsageError, match="512 inner units"):
        grow(base, 5, 500, 0)


def test_new_layers_are_spread_evenly() -> None:
    assert [source for source, itself in sources(5, 8) if itself] == [0, 1, 2, 3, 4]
    assert [itself for _, itself in sources(2, 4)] == [True, False, True, False]
    assert all(itself for _, itself in sources(5, 5))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(teacher_corpus.episodes(0, 150, Recipe()))


def writes(example: Example) -> bool:
    return example.messages[0].text.endswith("Guide:")


def test_the_same_seed_gives_the_same_corpus(examples: list[Example]) -> None:
    assert examples[:15] == list(islice(teacher_corpus.episodes(0, 15, Recipe()), 15))


def test_writing_pairs_hold_no_real_task_and_pass_the_writers_checks(examples: list[Example]) -> None:
    pairs = [example for example in examples if writes(example)]
    assert len(pairs) > 40
    for pair in pairs:
        question, answer = pair.messages
        assert pair.learn == (0.0, teacher_corpus.WEIGHT)
        assert not REAL_TASK.search(question.text)
        assert "Guide:" not in question.text.removesuffix("Guide:"), "the guide that was followed is not given away"
        commands = [line.removeprefix("> ") for line in question.text.splitlines() if line.startswith("> ")]
        steps = steps_in(answer.text, About.of(commands))
        assert 1 <= len(steps) <= 6
        assert not any(word.isdigit() for step in steps for word in step.split())


def test_the_question_is_the_writers_own(examples: list[Example]) -> None:
    prompts = load_prompts("pocket")
    trajectory = teacher_corpus.invented(random.Random(3), load_layout("pocket"), Recipe(), "x")
    assert trajectory.turns[-1].observation
    assert trajectory.goal in trajectory.prompt[0].text
    asked = prompts.ask("task", trajectory, prompts.transcript(trajectory.turns, 40)).text
    assert asked.startswith(trajectory.scene)
    assert all(turn.call and f"> {turn.call.command}\n" in asked for turn in trajectory.turns)


def test_real_tasks_are_won_without_memories_and_their_slips_are_not_learned(examples: list[Example]) -> None:
    layout = load_layout("pocket")
    real = [example for example in examples if REAL_TASK.search(example.messages[0].text) and not writes(example)]
    assert len(real) > 30
    weights_of_turns = [weight for each in real for weight in each.learn[1::2]]
    assert 0.03 < weights_of_turns.count(0.0) / len(weights_of_turns) < 0.2
    for example in real:
        assert "Guide:" not in example.messages[0].text
        assert example.learn[-1] == 1.0
        assert all(parse(layout, Reply(message)) for message in example.messages[1::2])


def test_only_training_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    sample = corpus.sample_game

    def spy(rng: random.Random, split: str) -> object:
        game = sample(rng, split)
        seen.append(game.scene)
        return game

    monkeypatch.setattr(corpus, "sample_game", spy)
    monkeypatch.setattr(teacher_corpus, "sample_game", spy)
    list(teacher_corpus.episodes(1, 60, Recipe()))
    assert len(seen) >= 60
    assert set(seen) <= set(ROOMS["train"])


SHIPPED = Path(teacher.__file__).parent / "teacher"


@pytest.mark.skipif(not (SHIPPED / "config.json").is_file(), reason="this package ships no pocket teacher: make one")
def test_the_shipped_teacher_is_small_whole_and_described() -> None:
    file = SHIPPED / "model.safetensors"
    record = json.loads((SHIPPED / "training.json").read_text())
    assert file.stat().st_size < 15_000_000
    assert record["parameters"] <= 20_000_000
    assert hashlib.sha256(file.read_bytes()).hexdigest() in (SHIPPED / "README.md").read_text()
    assert record["before"]["base_sha256"] == weights.base_hash("pocket"), "grown from the base that ships beside it"
    assert weights.load_base("pocket/teacher", dtype="float32").config.num_hidden_layers == record["before"]["layers"]


@pytest.mark.skipif(not (SHIPPED / "config.json").is_file(), reason="this package ships no pocket teacher: make one")
def test_the_shipped_teacher_s_corpus_can_be_made_again() -> None:
    record = json.loads((SHIPPED / "training.json").read_text())
    settings = teacher.SETTINGS
    assert record["settings"]["seed"] == settings.seed
    assert record["recipe"] == asdict(settings.recipe)
    train._start_worker(str(SHIPPED))
    rows = train._rows((teacher_corpus.episodes, settings.seed * 1_000_000, 220, settings.recipe))[:200]
    assert digest([digest([row.ids.tolist() for row in rows]), record["episodes"]]) == record["corpus"]


def test_a_tiny_training_run_writes_a_model_that_loads(tmp_path: Path) -> None:
    settings = replace(teacher.SETTINGS, episodes=500, stop=2, tokens_per_step=1024, processes=1, seed=811)
    card = teacher.make(tmp_path / "teacher", settings, layers=6, inner=512)
    record = json.loads((tmp_path / "teacher" / "training.json").read_text())
    assert record["steps"] == 2
    assert record["before"]["base"] == "duomem/pocket"
    assert record["before"]["base_sha256"] == weights.base_hash("pocket")
    assert "real tasks" in card.read_text()
    model = weights.load_base(str(tmp_path / "teacher"), dtype="float32")
    assert model.config.num_hidden_layers == 6
    assert str(tmp_path) not in card.read_text() + json.dumps(record)
