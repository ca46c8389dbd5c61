"""Caches: reused over turns, never between owners, kept over restarts, by the engines' own counts of tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duomem.models import caches_of
from duomem.models._llama_slots import Slots
from duomem.types import Message, Sampling

SHORT = Sampling(max_tokens=4)
TALK = [Message.of("user", "You see a cabinet 1, a desk 1.\nTask: put a mug in a cabinet.")]
LATER = [*TALK, Message.of("assistant", "mug: find desk > go to desk 1"), Message.of("user", "On the desk 1, you see a mug 1.")]


def test_a_conversation_finds_its_slot_and_other_owners_never_share_one() -> None:
    slots = Slots(3)
    with slots.taken((1, 2, 3), "a") as first, slots.taken((1, 2, 3), "b") as second:
        assert first.slot != second.slot
        assert not first.fresh
        assert not second.fresh
    with slots.taken((1, 2, 3, 4, 5), "b") as again:
        assert (again.slot, again.fresh) == (second.slot, False)
    with slots.taken((9,), "c"), slots.taken((1, 2, 3, 7), "a") as mine, slots.taken((1, 2, 3, 7), "d") as other:
        assert (mine.slot, mine.fresh) == (first.slot, False)
        assert (other.slot, other.fresh) == (second.slot, True), "what another owner left there must not be read"


def test_a_new_task_takes_what_the_oldest_conversations_share_with_it() -> None:
    slots = Slots(4)
    for ids in ((1, 2, 30), (1, 9, 9), (7, 7), (1, 2, 3, 4)):
        with slots.taken(ids, "a"):
            pass
    with slots.taken((1, 2, 99), "a") as taken:
        assert taken.slot == 0, "not the conversation of a moment ago, which has more in common but will go on"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


def _engine(kind: str, folder: Path, **settings: Any) -> Any:
    if kind == "llamacpp":
        pytest.importorskip("xllamacpp", reason="needs the extra 'llamacpp'")
        from duomem.models import llamacpp

        return llamacpp.build(llamacpp.Config(folder=str(folder), threads=1, max_batch=3, **settings))
    pytest.importorskip("torch", reason="needs the extra 'train'")
    from duomem.models import hf

    return hf.build(hf.Config(threads=1, max_batch=3, **settings))


@pytest.mark.parametrize("kind", ["llamacpp", "hf"])
def test_no_token_of_one_owner_is_read_from_anothers_cache(kind: str, folder: Path) -> None:
    model = _engine(kind, folder)
    try:
        seen: dict[str, list[int]] = {}
        for owner in ("a", "b", "c", "d", "a", "e"):
            for talk in (TALK, LATER):
                with caches_of(owner):
                    usage = model.reply(talk, (), SHORT).usage
                seen.setdefault(owner, []).append(usage.cached)
                prompt = usage.prompt
    finally:
        model.close()
    first = {owner: counts[0] for owner, counts in seen.items()}
    assert first == dict.fromkeys("abcde", 0), "a stranger's prompt was answered from a cache: its time would tell"
    assert all(counts[1] > 0.4 * prompt for counts in seen.values()), "a conversation's next turn reads its own cache"


def test_caches_are_there_again_after_a_restart(folder: Path, tmp_path: Path) -> None:
    kept = str(tmp_path / "caches")
    model = _engine("llamacpp", folder, caches=kept)
    with caches_of("a"):
        before = model.reply(LATER, (), SHORT)
    assert model.save_caches() == 1
    model.close()
    again = _engine("llamacpp", folder, caches=kept)
    try:
        assert again.restore_caches() == 1
        with caches_of("b"):
            assert again.reply(LATER, (), SHORT).usage.cached == 0
        with caches_of("a"):
            after = again.reply(LATER, (), SHORT)
    finally:
        again.close()
    assert after.message == before.message
    assert after.usage.cached >= after.usage.prompt - 1


def test_calls_and_json_that_a_request_insists_on_are_held_by_a_grammar(folder: Path) -> None:
    import httpx

    import serve_world
    from duomem.serve.engine import LocalEngine
    from duomem.serve.student import ModelSpec

    pytest.importorskip("xllamacpp", reason="needs the extra 'llamacpp'")
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in ("read", "write")]
    ask = {"messages": [{"role": "user", "content": "Which city?"}], "max_tokens": 60}
    spec = ModelSpec("llamacpp", {"folder": str(folder), "threads": 1, "max_batch": 3})
    engine = LocalEngine.of(spec)
    student = replace(serve_world.scripted_student(), model=spec)
    with serve_world.serving(engine, student, close=engine.close) as (url, desk):
        path = f"{url}/v1/chat/completions"
        shape = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
        said = httpx.post(path, json={**ask, "response_format": shape}, timeout=300).json()
        assert json.loads(said["choices"][0]["message"]["content"])["city"] in ("Rome", "Oslo")
        forced = {"type": "function", "function": {"name": "write"}}
        said = httpx.post(path, json={**ask, "tools": tools, "tool_choice": forced}, timeout=300).json()
        (call, *_) = said["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "write"
        assert json.loads(call["function"]["arguments"])["city"] in ("Rome", "Oslo")
        desk.close()
