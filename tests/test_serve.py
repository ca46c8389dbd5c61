"""The server in front of the real small model: official clients get what the student says in process, memories included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import alfworld_roots
import serve_world
from duomem import parts
from duomem.envs import Env
from duomem.prompts import opening
from duomem.rundir import RunFolder
from duomem.serve.app import application
from duomem.serve.desk import Desk
from duomem.serve.engine import LocalEngine
from duomem.serve.inject import Injector
from duomem.serve.run import running
from duomem.serve.service import Alone, Service
from duomem.serve.student import Student, open_student
from duomem.types import Message, Task
from duomem.wire import read_request

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("uvicorn", reason="needs the extra 'record'")
openai = pytest.importorskip("openai", reason="needs the extra 'api'")


@dataclass(frozen=True)
class Served:
    run: RunFolder
    student: Student
    engine: LocalEngine
    url: str

    @property
    def client(self) -> Any:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def asks(
        self, goal: str = "put a mug in a cabinet.", scene: str = "You see a cabinet 1, a desk 1."
    ) -> list[dict[str, str]]:
        layout = self.student.injector.layout
        return [{"role": each.role, "content": each.text} for each in opening(layout, goal, scene, ())]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run = serve_world.make_run(tmp_path_factory.mktemp("serve") / "run")
    student = open_student(run.root)
    engine = LocalEngine.of(student.model)
    with running(application(Desk(Service(student, Alone(engine))))) as url:
        yield Served(run, student, engine, url)
    engine.close()
    student.close()


def test_an_answer_is_the_students_with_its_memories(served: Served) -> None:
    raw = served.client.chat.completions.with_raw_response.create(model="any", messages=served.asks())
    done = raw.parse()
    with parts.Parts(served.run) as loaded:
        player = loaded.student(served.run, parts.environment(served.run))
        shown = player.strategy.recall(_view(served), player.bank, player.budget)  # type: ignore[union-attr,arg-type]
        layout = served.student.injector.layout
        prompt = opening(layout, *_task(), [memory.text for memory in shown.memories])
        reply = player.model.reply(prompt, (), player.sampling)
    assert shown.ids
    assert raw.headers["x-duomem-memories"].split(",") == list(shown.ids)
    assert done.choices[0].message.content == reply.message.text
    assert done.usage.prompt_tokens == reply.usage.prompt
    assert done.usage.completion_tokens == reply.usage.completion
    assert done.choices[0].finish_reason == reply.finish


def test_a_stream_says_the_same_as_a_whole_answer(served: Served) -> None:
    whole = served.client.chat.completions.create(model="any", messages=served.asks())
    chunks = list(served.client.chat.completions.create(model="any", messages=served.asks(), stream=True))
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == whole.choices[0].message.content
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"


def test_every_request_of_a_conversation_has_the_same_prefix(served: Served) -> None:
    layout, injector = served.student.injector.layout, served.student.injector
    messages = served.asks()
    before: tuple[int, ...] = ()
    keys, shown = set(), set()
    for turn in range(4):
        body = {"model": "any", "messages": messages}
        injected = injector.inject(read_request("chat", body), body)
        ids = injected.prompt_ids(served.engine.model.tokenizer)  # type: ignore[attr-defined]
        assert ids[: len(before)] == before
        assert len(ids) > len(before)
        before = ids
        keys.add(injected.key)
        shown.add(injected.ids)
        messages = [*messages, {"role": "assistant", "content": "look > look"}, {"role": "user", "content": f"Turn {turn}."}]
    assert len(keys) == len(shown) == 1
    assert layout.hash == served.student.facts["layout"]


def test_a_clients_own_prompt_has_memories_in_its_system_message(served: Served) -> None:
    body = {
        "model": "any",
        "messages": [{"role": "system", "content": "You tidy up."}, {"role": "user", "content": "put a mug in a cabinet"}],
    }
    request = read_request("chat", body)
    injected = served.student.injector.inject(request, body)
    assert injected.key.goal == "put a mug in a cabinet"
    assert injected.messages[0].text.startswith("You tidy up.\n\nGuide: ")
    assert injected.messages[1:] == (Message.of("user", "put a mug in a cabinet"),)
    off = served.student.injector.inject(request, body, memories=False)
    assert off.messages == request.messages
    assert off.key == injected.key


def same_games(served: Served, env: Env, tasks: Sequence[Task], steps: int) -> list[bool]:
    """Play games over HTTP and in process; they must be the same to the last command. Which were won."""
    games = [serve_world.play(served.client, env, task, served.student.injector.layout, steps) for task in tasks]
    with parts.Parts(served.run) as loaded:
        player = replace(loaded.student(served.run, env), max_steps=steps)
        played = [player.play(task) for task in tasks]
    assert [game.commands for game in games] == [serve_world.commands_of(each.turns) for each in played]
    assert [game.won for game in games] == [each.won for each in played]
    return [game.won for game in games]


def test_an_agent_with_openais_client_plays_like_the_student_in_process(served: Served) -> None:
    env = parts.environment(served.run)
    assert any(same_games(served, env, env.tasks("valid_unseen")[:4], 20))


def test_the_same_on_real_games_of_alfworld(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("alfworld", reason="needs the extra 'alfworld'")
    root = alfworld_roots.unpack("valid_seen", tmp_path)
    if root is None:
        pytest.skip("the archives of development games are not in ../shared/alfworld")
    from duomem.envs import alfworld

    env = alfworld.build(alfworld.Config(data_root=str(root)))
    same_games(served, env, env.tasks("valid_seen")[:2], 10)


def test_a_bad_request_is_the_clients_error(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="role"):
        served.client.chat.completions.create(model="any", messages=[{"role": "nobody", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="context length exceeded"):
        served.client.chat.completions.create(model="any", messages=[{"role": "user", "content": "mug " * 5000}])


def test_without_a_bank_nothing_is_injected() -> None:
    from duomem.prompts import load_layout

    body = {"messages": [{"role": "user", "content": "hello"}]}
    injected = Injector(load_layout("pocket")).inject(read_request("chat", body), body)
    assert injected.messages == (Message.of("user", "hello"),)
    assert injected.memories == ()


def _task() -> tuple[str, str]:
    return "put a mug in a cabinet.", "You see a cabinet 1, a desk 1."


def _view(served: Served) -> Any:
    from duomem.types import EpisodeView

    return EpisodeView(*_task())
