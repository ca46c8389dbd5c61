"""A running engine by its URL: llama.cpp by token ids, others through their chat API; what is wrong is said."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import gguf_bases
import serve_world
from duomem import weights
from duomem.errors import InfraError, MismatchError, UsageError
from duomem.models import ContextFull, engine_url, llamacpp
from duomem.types import Message, Sampling
from gguf_bases import GREEDY, said, transcript

pytest.importorskip("openai", reason="needs the extra 'api'")
ASK = [Message.of("user", "You see mug 1.")]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llamacpp.Served]:
    pytest.importorskip("xllamacpp", reason="needs the extra 'llamacpp'")
    folder = str(tmp_path_factory.mktemp("gguf"))
    with llamacpp.serve(llamacpp.Config(folder=folder, threads=1, max_batch=4)) as engine:
        yield engine


@contextmanager
def pretender(owner: str, answer: Callable[[str, dict[str, Any]], Any]) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A server whose models belong to `owner`; `answer(path, body)` gives the JSON of every other request."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({"data": [{"id": "student:latest", "owned_by": owner, "max_model_len": 256}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            self.reply(answer(self.path, body))

        def reply(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200 if value is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_running_llama_server_says_what_the_engine_in_this_process_says(served: llamacpp.Served, tmp_path: Path) -> None:
    here = llamacpp.build(llamacpp.Config(folder=str(tmp_path), threads=1))
    there = engine_url.build(engine_url.Config(url=served.url.removesuffix("/v1"), path="pocket"))
    assert isinstance(there, engine_url.ByIds)
    wanted, found = transcript(here), transcript(there)
    assert said(found) == said(wanted)
    assert found[1].usage.cached >= found[0].usage.prompt, "the engine keeps the conversation's cache"
    facts = there.provenance()
    assert (facts["engine"], facts["model"]) == ("llama.cpp", served.model)
    draws = {there.reply(ASK, [], Sampling(temperature=1.5, max_tokens=12, seed=seed)).message.text for seed in range(4)}
    assert len(draws) > 1
    with pytest.raises(ContextFull, match="exceed 2048"):
        there.reply([Message.of("user", "mug " * 3000)], [], GREEDY)
    there.close()
    here.close()


def test_messages_go_through_its_chat_template_where_that_is_asked_for(served: llamacpp.Served) -> None:
    chat = engine_url.build(engine_url.Config(url=served.url, path="pocket", prompts="chat"))
    ids = engine_url.build(engine_url.Config(url=served.url, path="pocket", prompts="ids"))
    one, other = (model.reply(ASK, [], GREEDY) for model in (chat, ids))
    assert one.message == other.message
    assert one.usage.prompt == other.usage.prompt
    for model in (chat, ids):
        model.close()


def test_another_model_s_tokenizer_is_refused(served: llamacpp.Served, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    other = gguf_bases.base("qwen3", tmp_path / "base")
    with pytest.raises(MismatchError, match="tokenizer is not the student's"):
        engine_url.build(engine_url.Config(url=served.url, path=other))


def test_vllm_gets_ids_and_ollama_messages() -> None:
    tokenizer = weights.load_tokenizer("pocket")

    def vllm(path: str, body: dict[str, Any]) -> Any:
        if path == "/tokenize":
            return {"tokens": tokenizer.encode(body["prompt"], add_special_tokens=False)}
        choice = {"text": "desk > go", "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 7}}}

    with pretender("vllm", vllm) as (url, asked):
        model = engine_url.build(engine_url.Config(url=url, path="pocket", remote_model="student"))
        reply = model.reply(ASK, [], Sampling(max_tokens=9, temperature=0.5, seed=3))
        assert (reply.message.text, reply.usage.cached, reply.usage.completion) == ("desk > go", 7, 3)
        path, body = asked[-1]
        assert path == "/v1/completions"
        assert (body["model"], body["max_tokens"], body["seed"], body["top_k"]) == ("student:latest", 9, 3, -1)
        assert body["prompt"] == list(model.prompt(ASK, [], GREEDY)[0])  # type: ignore[attr-defined]
        assert model.context == 256  # type: ignore[attr-defined]
        model.close()

    def ollama(path: str, body: dict[str, Any]) -> Any:
        message = {"role": "assistant", "content": "desk > go"}
        return {
            "model": "student:latest",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "object": "chat",
        }

    with pretender("library", ollama) as (url, asked):
        with pytest.raises(UsageError, match=r"takes no token ids.*prompts = 'chat'"):
            engine_url.build(engine_url.Config(url=url, path="pocket", prompts="ids"))
        model = engine_url.build(engine_url.Config(url=url, path="pocket"))
        with pytest.raises(InfraError):  # the pretender does not stream
            model.reply(ASK, [], GREEDY)
        assert asked[-1][0] == "/v1/chat/completions"
        assert asked[-1][1]["messages"][-1]["content"] == "You see mug 1."
        model.close()


def test_what_is_wrong_is_said(served: llamacpp.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InfraError, match=r"Nothing answers at http://127\.0\.0\.1:9/v1"):
        engine_url.build(engine_url.Config(url="http://127.0.0.1:9", retries=0))
    with pytest.raises(UsageError, match=r"serves duomem/pocket\. Say which"):
        engine_url.build(engine_url.Config(url=served.url, remote_model="another"))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UsageError, match="NO_SUCH_KEY holds no key"):
        engine_url.build(engine_url.Config(url=served.url, key_env="NO_SUCH_KEY"))
    with pretender("vllm", lambda path, body: None if path == "/tokenize" else {"choices": []}) as (url, _):
        model = engine_url.build(engine_url.Config(url=url, path="pocket", retries=0))
        with pytest.raises(InfraError, match="sent no completion"):
            model.reply(ASK, [], GREEDY)


def test_a_student_is_served_from_a_running_engine(served: llamacpp.Served, tmp_path: Path) -> None:
    """`duomem serve --engine-url`: the run's layout and memories here, its model there."""
    from duomem import parts
    from duomem.serve.student import Choice, open_student

    run = serve_world.make_run(tmp_path / "run", tasks=4, layout="pocket")
    student = open_student(run.root, Choice(arm="memory", engine_url=served.url))
    assert (student.model.name, student.model.options["url"], student.model.options["path"]) == (
        "engine_url",
        served.url,
        "pocket",
    )
    model = parts.build("models", student.model.name, student.model.options)
    here = llamacpp.build(llamacpp.Config(folder=str(tmp_path), threads=1))
    assert said(transcript(model)) == said(transcript(here))
    for each in (model, here, student):
        each.close()
