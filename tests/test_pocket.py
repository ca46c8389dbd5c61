"""The pocket student: what its corpus may hold, and what ships."""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("alfworld", reason="the alfworld extra is not installed: the corpus is made in its rooms")

from duomem.pocket import MODEL, corpus, language, train
from duomem.prompts import load_layout
from duomem.types import Example


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(corpus.episodes(0, 600))


def test_no_task_text_of_a_real_type(examples: list[Example]) -> None:
    texts = [message.text for example in examples for message in example.messages]
    assert not [text for text in texts if language.REAL_TASK.search(text)]


def test_no_procedure_has_a_real_shape() -> None:
    rng = random.Random(0)
    shapes = {language.invent(rng, ["shelf", "desk", "bed"]).shape for _ in range(3000)}
    assert len(shapes) > 40
    assert not shapes & language.REAL_SHAPES


def test_the_wordings_of_real_tasks_are_known() -> None:
    """The filter that keeps them out of the corpus sees every wording that the game sampler writes."""
    from duomem.games.sample import sample_game

    rng = random.Random(0)
    assert all(language.REAL_TASK.search(sample_game(rng, "train").task_text) for _ in range(300))


def test_no_procedure_takes_and_moves_or_lights_in_real_words() -> None:
    """Real verbs may mean themselves in an invented procedure, so that nothing but its guide says what follows them; but
    where `take` takes, neither `move` moves nor `use` uses."""
    rng = random.Random(1)
    own = {"take": "take", "move": "move", "use": "use", "clean": "process", "heat": "process", "cool": "process"}
    tools = ["shelf", "sinkbasin", "microwave", "fridge"]
    seen = set()
    for _ in range(3000):
        real = {slot.kind for slot in language.invent(rng, tools).slots if own.get(slot.verb.word) == slot.kind}
        assert not ("take" in real and real & {"move", "use"})
        seen |= {frozenset(real)}
    assert {frozenset({"take", "process"}), frozenset({"move", "use"}), frozenset()} <= seen


def test_real_tools_do_their_own_work() -> None:
    rng = random.Random(4)
    tool = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
    slots = [slot for _ in range(2000) for slot in language.invent(rng, ["shelf", "sinkbasin", "fridge"]).slots]
    real = {(slot.verb.word, slot.place) for slot in slots if slot.kind == "process" and slot.verb.word in tool}
    assert real == {("clean", "sinkbasin"), ("cool", "fridge")}


def test_guided_real_verbs_never_move_and_never_light_with_a_thing_in_hand() -> None:
    rng = random.Random(2)
    found = [language.real(rng, ["sinkbasin", "microwave", "fridge"], ["desklamp"]) for _ in range(500)]
    shapes = {procedure.shape for procedure in found if procedure}
    assert shapes == {"u", "tp", "tpp", "tppp"}


def test_wandering_puts_things_back(examples: list[Example]) -> None:
    """Without a guide, a thing is only put back where it was taken, and no lamp is used with a thing in hand."""
    moved = 0
    for example in examples:
        held = ""
        for message in example.messages if "Guide:" not in example.messages[0].text else ():
            words = message.text.rpartition(" > ")[2].split() if message.role == "assistant" else []
            if words[:1] == ["take"]:
                held = " ".join(words[-2:])
            elif words[:1] == ["move"]:
                assert " ".join(words[-2:]) == held
                held, moved = "", moved + 1
            elif words[:1] == ["use"]:
                assert not held
    assert moved


def test_only_training_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    sample = corpus.sample_game

    def spy(rng: random.Random, split: str) -> object:
        game = sample(rng, split)
        seen.append(game.scene)
        return game

    monkeypatch.setattr(corpus, "sample_game", spy)
    list(corpus.episodes(1, 300))
    from duomem.games.rooms import ROOMS

    assert set(seen) <= set(ROOMS["train"])
    assert not set(seen) & {*ROOMS["dev"], *ROOMS["valid_unseen"], *ROOMS["second_unseen"]}
    assert len(set(seen)) > 60


@pytest.mark.parametrize("recipe", sorted(MODEL.parent.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_keeps_the_corpus_clean(recipe: Path) -> None:
    """The recipes load, and no share of slips or guides lets a real task's wording in or a turn of another weight."""
    values = tomllib.loads(recipe.read_text())
    shares = corpus.Recipe(**values.pop("recipe", {}))
    assert train.Settings(**values, recipe=shares).episodes >= 10_000
    made = list(corpus.episodes(values["seed"], 100, shares))
    assert not [message.text for each in made for message in each.messages if language.REAL_TASK.search(message.text)]
    assert {weight for each in made for weight in each.learn} <= {0.0, 1.0, shares.wander_weight, corpus.OBSERVED}


def test_the_same_seed_gives_the_same_corpus() -> None:
    assert list(corpus.episodes(3, 20)) == list(corpus.episodes(3, 20))
    assert list(corpus.episodes(3, 20)) != list(corpus.episodes(4, 20))


def test_slips_are_shown_but_not_learned(examples: list[Example]) -> None:
    weights = [
        weight
        for example in examples
        for message, weight in zip(example.messages, example.learn, strict=True)
        if message.role == "assistant"
    ]
    assert 0.01 < weights.count(0.0) / len(weights) < 0.15
    assert set(weights) == {0.0, 0.2, 1.0}


def test_a_guide_reads_like_a_memory_of_the_default_strategy(tmp_path: Path) -> None:
    """The guides that the base learned to follow have the form that `memory/procedure` writes."""
    from duomem.agent import Player
    from duomem.bank import Bank
    from duomem.embed import build as embedder
    from duomem.envs.household import Config, build
    from duomem.memory import procedure
    from duomem.models import expert

    env = build(Config(games=6))
    trajectory = Player(env, expert.build(expert.Config()), load_layout("pocket"), max_steps=50).play(env.tasks("train")[1])
    strategy = procedure.build(procedure.Config(build="script"))
    with Bank.create(tmp_path / "bank.sqlite", embedder("lexical"), load_layout("pocket").hash) as bank:
        (edit,) = strategy.write(trajectory, bank.view(), None)
    assert edit.memory is not None
    line = re.compile(r"\d+\. \w+: \w+ \w+ \w+(?:, \w+)*")
    rng = random.Random(0)
    invented = language.invent(rng, ["shelf", "desk"])
    guide = invented.guide(["cup", "pen", "mug"], ["shelf", "desk"], [["bed", "sofa"]] * len(invented.slots))
    for text in (edit.memory.text, guide):
        assert all(line.fullmatch(step) for step in text.splitlines()[1:]), text


def test_the_shipped_model_is_small_whole_and_described() -> None:
    weights = MODEL / "model.safetensors"
    assert weights.stat().st_size <= 20_000_000
    assert not list(MODEL.glob("*.bin")) + list(MODEL.glob("*.pkl"))
    card = (MODEL / "README.md").read_text()
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert "python -m duomem.pocket.train" in card


def test_the_shipped_tokenizer_has_every_word_as_one_token() -> None:
    transformers = pytest.importorskip("transformers", reason="the train extra is not installed")
    from duomem.pocket.train import names_of_things

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    split = [word for word in names_of_things() if len(tokenizer.encode(f" {word}")) > 1]
    assert not split
    assert tokenizer.decode(tokenizer.encode("take mug 1 from cabinet 27 ünïcode")) == "take mug 1 from cabinet 27 ünïcode"


def test_the_shipped_model_s_corpus_can_be_made_again(tmp_path: Path) -> None:
    """The recipes beside the model still give the episodes and the tokenizer that each of its stages was trained on."""
    pytest.importorskip("transformers", reason="the train extra is not installed")
    import json

    from duomem.types import digest

    last = json.loads((MODEL / "training.json").read_text())
    train._start_worker(str(MODEL))
    for name, record in (("stage1", last["before"]), ("stage2", last)):
        recipe = tomllib.loads((MODEL.parent / f"{name}.toml").read_text())
        shares = corpus.Recipe(**recipe.pop("recipe", {}))
        assert all(record["settings"][key] == value for key, value in recipe.items())
        assert all(value == getattr(shares, key) for key, value in record["recipe"].items())
        rows = train._rows((corpus.episodes, recipe["seed"] * 1_000_000, 220, shares))[:200]
        assert digest([digest([row.ids.tolist() for row in rows]), record["episodes"]]) == record["corpus"]
