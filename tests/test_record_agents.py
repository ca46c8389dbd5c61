"""A real agent framework (pydantic-ai) through the recorder: on the small endpoint with tools, and on the local engine.

pydantic-ai because it drives chat completions and responses through the real `openai` client, runs tool calls in parallel,
streams, and carries conversations on by itself, with few other libraries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic", reason="the client anthropic is not installed (extra: dev)")
openai = pytest.importorskip("openai", reason="the client openai is not installed (extra: api)")
pydantic_ai = pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed (extra: dev)")
models = pytest.importorskip("pydantic_ai.models.openai", reason="pydantic-ai has no OpenAI models here (extra: dev)")
providers = pytest.importorskip("pydantic_ai.providers.openai", reason="pydantic-ai has no OpenAI provider here (extra: dev)")

from duomem.record import app as recorder  # noqa: E402
from duomem.record.episodes import Episode, read  # noqa: E402
from duomem.record.functions import locator  # noqa: E402
from duomem.record.proxy import Options, Proxy  # noqa: E402
from duomem.record.redact import Redactor  # noqa: E402
from duomem.record.store import FILE, RecordStore  # noqa: E402
from duomem.record.trajectories import trajectories  # noqa: E402
from recorded_world import KEY, World, world  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("agents")) as found:
        yield found


def agent(kind: Any, base: str, model: str = "m", key: str = KEY) -> Any:
    provider = providers.OpenAIProvider(base_url=base, api_key=key)
    return pydantic_ai.Agent(kind(model, provider=provider), instructions="Be brief.")


def with_weather(base: str, kind: Any) -> Any:
    made = agent(kind, base)

    @made.tool_plain  # type: ignore[untyped-decorator]
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    return made


@pytest.mark.parametrize("kind", [models.OpenAIChatModel, models.OpenAIResponsesModel], ids=["chat", "responses"])
@pytest.mark.parametrize("named", [True, False])
def test_an_agent_with_tools_is_one_episode_of_whole_turns(made: World, kind: Any, named: bool) -> None:
    name = f"{kind.__name__}-named"
    task = f"Weather for {kind.__name__}, {named}?"
    asker = with_weather(f"{made.url}/e/{name}/v1" if named else made.openai, kind)
    first = asker.run_sync(task)
    streamed = asker.run_stream_sync("And now?", message_history=first.all_messages())
    assert "".join(streamed.stream_text(delta=True)).startswith("reply 0 to rain in")
    names = [name] if named else [each for each in made.store.episodes() if made.episode(each).task == task]
    assert len(names) == 1, "the conversation fell apart"
    made.store.judge(names[0], True, "test")
    episode = made.episode(names[0])
    assert (episode.problem, len(episode.trees), episode.turns) == ("", 1, 4)
    assert [each.state for each in episode.exchanges] == ["whole"] * 4
    (trajectory,) = trajectories([episode], "train")
    assert trajectory.goal == task
    assert [tool.name for tool in trajectory.tools] == ["weather"]
    assert [turn.observation for turn in trajectory.turns] == [
        "rain in Rome\nrain in Oslo",
        "And now?",
        "rain in Rome\nrain in Oslo",
        "",
    ]
    assert KEY.encode() not in made.disk()


@dataclass
class Local:
    """The pocket model behind llama.cpp's server, and a recorder before it."""

    url: str
    model: str
    store: RecordStore
    folder: Path

    def episode(self, name: str) -> Episode:
        return read(self.store, name, self.store.outcomes().get(name))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (extra: llamacpp)")
    pytest.importorskip("gguf", reason="gguf is not installed (extra: llamacpp)")
    from duomem.models import llamacpp

    folder = tmp_path_factory.mktemp("engine")
    config = llamacpp.Config(threads=1, max_batch=1, folder=str(folder / "gguf"))
    with llamacpp.serve(config, api_key=KEY) as engine, RecordStore.open(folder / FILE, "record") as store:
        with recorder.running(Proxy(store, Redactor(), Options(engine.url, locator()))) as url:
            yield Local(url, engine.model, store, folder)
        assert KEY.encode() not in b"".join(path.read_bytes() for path in folder.glob("record.sqlite*"))


def test_an_agent_on_the_local_engine_is_recorded_with_its_usage(local: Local) -> None:
    asker = agent(models.OpenAIChatModel, f"{local.url}/v1", local.model)
    few = {"max_tokens": 12, "temperature": 0.0}
    first = asker.run_sync("You are in a room. Put the mug in the sink.", model_settings=few)
    asker.run_stream_sync("Go on.", message_history=first.all_messages(), model_settings=few).get_output()
    (name,) = (each for each in local.store.episodes() if each.startswith("auto-"))
    local.store.judge(name, True, "test")
    episode = local.episode(name)
    assert (episode.problem, episode.turns) == ("", 2)
    answer = episode.exchanges[0].answer
    assert answer is not None
    assert 0 < answer.replies[0].usage.completion <= 12
    assert first.output == answer.message.text


def test_all_three_apis_of_the_local_engine_are_recorded_whole(local: Local) -> None:
    chat = openai.OpenAI(base_url=f"{local.url}/e/three/v1", api_key=KEY, max_retries=0)
    claude = anthropic.Anthropic(base_url=f"{local.url}/e/three", api_key=KEY, max_retries=0)
    asked: dict[str, Any] = {
        "model": local.model,
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "Go to the sink."}],
    }
    said = [chat.chat.completions.create(**asked).choices[0].message.content]
    said.append(
        "".join(
            chunk.choices[0].delta.content or ""
            for chunk in chat.chat.completions.create(**asked, stream=True)
            if chunk.choices
        )
    )
    said.append(claude.messages.create(**asked).content[0].text)
    with claude.messages.stream(**asked) as stream:
        said.append(stream.get_final_message().content[0].text)
    brief = {"model": local.model, "max_output_tokens": 8, "input": "Go to the sink."}
    said.append(chat.responses.create(**brief).output_text)
    events = list(chat.responses.create(**brief, stream=True))
    said.append("".join(each.delta for each in events if each.type == "response.output_text.delta"))
    exchanges = local.episode("three").exchanges
    assert [(each.api, each.state) for each in exchanges] == [
        (api, "whole") for api in ("chat", "messages", "responses") for _ in range(2)
    ]
    assert [each.answer.message.text for each in exchanges if each.answer] == said
    assert all(each.answer and each.answer.replies[0].usage.completion for each in exchanges if each.api != "chat")
