"""Our games in other people's frameworks, played once each by the real package. The teacher stands in for a model.

The packages are large, and verifiers wants another openai than the extra `api`: see docs/environments.md for an environment of
their own in which these tests run.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from duomem.envs import tools
from duomem.errors import UsageError
from duomem.games.write import write_games
from duomem.models.expert import Config, Expert
from duomem.offer._game import Game, environment
from duomem.types import Message, Sampling


def needs(package: str, extra: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not found, reason=f"{package} is not installed (extra {extra})")


EXPERT = Expert(Config(layout="default"))


def taught(messages: list[tuple[str, str]]) -> str:
    """What the teacher says to a conversation of roles and texts."""
    return EXPERT.reply([Message.of(role, text) for role, text in messages], (), Sampling()).message.text  # type: ignore[arg-type]


def test_a_game_is_won_by_replies_alone_and_counts_what_did_nothing() -> None:
    env, tasks = environment("household", {"games": 6}, "train", 2, 0)
    assert len(tasks) == 2
    game = Game(env, tasks[0])
    told = [(message.role, message.text) for message in game.prompt]
    assert [role for role, _ in told] == ["system", "user"]
    lost = game.answer("I would rather not.")
    assert (lost.text, lost.done, game.invalid) == ("Nothing happens.", False, 1)
    for _ in range(30):
        reply = taught(told)
        answer = game.answer(reply)
        told += [("assistant", reply), ("user", answer.text)]
        if answer.done:
            break
    assert game.won
    assert game.steps == (len(told) - 2) // 2 + 1
    game.close()
    game.close()


def test_worlds_with_tools_of_their_own_are_not_offered() -> None:
    env = tools.build(tools.Config(games=4))
    with pytest.raises(UsageError, match="only text environments"):
        Game(env, env.tasks("train")[0])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two games of ALFWorld."""
    if importlib.util.find_spec("alfworld") is None:
        pytest.skip("alfworld is not installed")
    folder = tmp_path_factory.mktemp("alfworld")
    write_games(folder, "train", 2, 3)
    return folder


@needs("inspect_ai", "inspect")
def test_inspect_plays_and_scores(root: Path, tmp_path: Path) -> None:
    from inspect_ai import eval
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from duomem.offer.inspect import alfworld

    def said(text: str) -> ModelOutput:
        output = ModelOutput.from_content("teacher", text)
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else it loads a tokenizer from the net
        return output

    def answer(messages: Any, *_: Any) -> ModelOutput:
        return said(taught([(each.role, each.text) for each in messages]))

    good = get_model("mockllm/model", custom_outputs=answer)
    (log,) = eval(alfworld(data_root=str(root), split="train"), model=good, log_dir=str(tmp_path), display="none")
    assert log.status == "success", log.error
    assert log.samples
    assert log.results
    assert log.results.scores[0].metrics["accuracy"].value == 1.0
    assert len(log.samples) == 2
    assert all(sample.metadata["won"] and sample.metadata["steps"] < 30 and sample.metadata["kind"] for sample in log.samples)
    assert str(root) not in str(log.eval.metadata)
    idle = get_model("mockllm/model", custom_outputs=lambda *_: said("I would rather not."))
    twin = alfworld(env="household", options={"games": 1}, split="train", max_steps=3)
    (log,) = eval(twin, model=idle, log_dir=str(tmp_path), display="none")
    assert log.results
    assert log.results.scores[0].metrics["accuracy"].value == 0.0
    assert log.samples
    assert log.samples[0].metadata["invalid"] == 3


class Teacher(BaseHTTPRequestHandler):
    """Chat completions by the teacher."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = taught([(each["role"], flat(each["content"])) for each in body["messages"]])
        message = {"role": "assistant", "content": text}
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def flat(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()


@needs("verifiers", "verifiers")
def test_verifiers_plays_and_rewards(root: Path, endpoint: str) -> None:
    import verifiers.v1 as vf

    taskset = {"id": "duomem-games", "data_root": str(root), "split": "train"}
    env = vf.load_environment(vf.resolve_env_config({"taskset": taskset}))
    tasks = list(env.taskset)
    assert len(tasks) == 2
    client = vf.EvalClientConfig(base_url=endpoint, api_key_var="NO_KEY")
    ctx = vf.ModelContext(model="teacher", client=client, sampling=vf.SamplingConfig())

    async def play() -> list[Any]:
        async with env.serving():
            return [await env.run_slot(slot, ctx) for task in tasks for slot in env.slots(task)]

    for episode in asyncio.run(play()):
        assert episode.ok, episode.errors
        (trace,) = episode.traces
        assert trace.reward == 1.0
        assert 0 < trace.metrics["steps"] < 30
