"""When the teacher is asked: the rule, the share, how sure a student was, the curve, and the same behind a server."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from duomem.cascade import BURST, CascadeModel, Rule, Share
from duomem.errors import UsageError
from duomem.models.scripted import Scripted
from duomem.prompts import load_layout
from duomem.types import Message, Reply, Sampling, ToolCall, Usage

ROOM = "You are in the middle of a room. Looking quickly around you, you see a bed 1, a desk 1, and a shelf 1."
ASKED = (Message.of("user", f"{ROOM}\nGuide: put a pen in bed.\n1. pen: take from desk\nTask: put a book in shelf."),)
POCKET = load_layout("pocket")


def said(text: str, logprob: float | None = None, finish: Any = "stop") -> Reply:
    return Reply(Message.of("assistant", text), finish, logprob=logprob)


GO = "1. book: find desk > go to desk 1"


@pytest.mark.parametrize(
    ("reply", "before", "why"),
    [
        (said(GO, -0.1), "", ""),
        (said(GO, -3.0), "", "unsure"),
        (said(GO, None), "", ""),
        (said(GO, -0.1), GO, "repeat"),
        (said("2. book: find shelf > go to desk 1", -0.1), GO, "repeat"),
        (said("I do not know", -0.1), "", "invalid"),
        (said(GO, -0.1, "length"), "", "invalid"),
    ],
)
def test_a_reply_is_doubted_for_a_reason(reply: Reply, before: str, why: str) -> None:
    asked = (*ASKED, Message.of("assistant", before), Message.of("user", "Nothing happens.")) if before else ASKED
    assert Rule(-2.0).why(asked, reply, POCKET) == why
    assert Rule(repeats=False, invalid=False).why(asked, reply, POCKET) == ""


def test_tool_calls_are_actions_without_a_layout() -> None:
    call = ToolCall("mail", '{"to": "ann"}', "call_1")
    reply = Reply(Message("assistant", (), (call,)), "tool_calls", logprob=-0.1)
    again = Message("assistant", (), (ToolCall("mail", '{"to": "ann"}', "call_0"),))
    other = Message("assistant", (), (ToolCall("mail", '{"to": "bob"}', "call_0"),))
    assert Rule(-2.0).why((*ASKED, again), reply) == "repeat"
    assert Rule(-2.0).why((*ASKED, other), reply) == ""
    assert Rule(-2.0).why(ASKED, Reply(Message.of("assistant", ""))) == "invalid"


def test_the_share_holds_but_for_a_burst() -> None:
    share = Share(0.2)
    for _ in range(1_000):
        share.call()
        share.grant()
    assert 200 <= share.granted <= 200 + BURST
    none = Share(0.0)
    none.call()
    assert not none.grant()


def test_the_student_answers_until_it_is_in_doubt() -> None:
    student = Scripted(lambda messages: said(GO))
    teacher = Scripted(lambda messages: said("1. book: find shelf > go to shelf 1"))
    both = CascadeModel(student, teacher, Rule(), POCKET)
    first = both.reply(ASKED, (), Sampling())
    assert first.message.text == GO
    after = (*ASKED, first.message, Message.of("user", "Nothing happens."))
    assert both.reply(after, (), Sampling()).message.text.endswith("go to shelf 1")
    assert (both.share.calls, both.share.granted) == (2, 1)
    alone = CascadeModel(student, teacher, Rule(), POCKET, Share(0.0))
    assert alone.reply(after, (), Sampling()).message.text == GO


def _forced(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """The log-probability of an answer, by one plain forward of transformers."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
    rows = torch.log_softmax(logits, dim=-1)
    return float(rows[torch.arange(len(answer)), torch.tensor(answer)].sum())


def test_local_models_say_how_sure_they_were() -> None:
    pytest.importorskip("torch", reason="the train extra is not installed")
    from duomem import weights
    from duomem.models import hf

    plain = weights.load_base("pocket", dtype="float32")
    found = {}
    for lookup in (8, 0):
        model = hf.build(hf.Config(threads=1, lookup=lookup))
        for temperature in (0.0, 1.0):
            reply = model.reply(ASKED, (), Sampling(temperature, 30, logprob=True))
            prompt, _ = model.prompt(ASKED, (), Sampling())
            answer = model.tokenizer.encode(reply.message.text)
            assert reply.logprob is not None
            assert reply.logprob == pytest.approx(_forced(plain, prompt, answer), abs=1e-3)
            found[lookup, temperature] = reply.logprob
        assert model.reply(ASKED, (), Sampling()).logprob is None
        model.close()
    assert found[8, 0.0] == pytest.approx(found[0, 0.0], abs=1e-6)


def test_llama_cpp_says_it_too() -> None:
    pytest.importorskip("xllamacpp", reason="the llamacpp extra is not installed")
    pytest.importorskip("torch", reason="the train extra is not installed")
    from duomem.models import hf, llamacpp

    ours, theirs = hf.build(hf.Config(threads=1)), llamacpp.build(llamacpp.Config(threads=1))
    asked = Sampling(max_tokens=30, logprob=True)
    first, second = ours.reply(ASKED, (), asked), theirs.reply(ASKED, (), asked)
    assert first.message.text == second.message.text
    assert first.logprob == pytest.approx(second.logprob, abs=0.01)
    assert theirs.reply(ASKED, (), Sampling()).logprob is None
    ours.close()
    theirs.close()


def test_the_curve(tmp_path: Path) -> None:
    """The small base with memories and the expert behind it: more calls to the expert, more games won; and the choice kept."""
    pytest.importorskip("torch", reason="the train extra is not installed")
    import serve_world
    from duomem import cascade_curve
    from duomem.journal import Journal
    from duomem.talk import SILENT

    run = serve_world.make_run(tmp_path / "run")
    with pytest.raises(UsageError, match="would know them"):
        cascade_curve.measure(run, SILENT, split="valid_unseen", arm="memory")
    with pytest.raises(UsageError, match="Measure the curve first"):
        cascade_curve.threshold_of(run.root)
    done = cascade_curve.measure(run, SILENT, split="dev", games=6, arm="memory", most=1.0)
    points = done.data["points"]
    assert points[0]["local"] == 1.0
    assert points[0]["remote_tokens"] == 0
    assert points[-1]["local"] < 1.0
    assert points[-1]["remote_tokens"] > 0
    chosen = done.data["chosen"]
    assert chosen["success"] == max(each["success"] for each in points)
    assert cascade_curve.threshold_of(run.root) == chosen["threshold"]
    assert json.loads((run.root / "cascade.json").read_text()) == json.loads(json.dumps(done.data))
    with Journal.open(run.root / "cascade.sqlite") as journal:
        episodes = sum(len(journal.finished(phase)) for phase in journal.phases())
    assert cascade_curve.measure(run, SILENT, split="dev", games=6, arm="memory", most=1.0).data == done.data
    with Journal.open(run.root / "cascade.sqlite") as journal:
        assert sum(len(journal.finished(phase)) for phase in journal.phases()) == episodes


class Unsure:
    """An engine whose answers are as likely as it is told."""

    context = 4096

    def __init__(self, logprob: float) -> None:
        self.logprob = logprob

    def reply(self, messages: Any, tools: Any, sampling: Sampling, owner: str, call: bool = False) -> Reply:
        told = self.logprob if sampling.logprob else None
        return Reply(Message.of("assistant", "student"), usage=Usage(5, 0, 1), logprob=told)

    def close(self) -> None:
        pass


def _behind(engine: Any, teacher: str, **more: Any) -> Any:
    """A service of that engine with a teacher's endpoint behind it, and its metrics."""
    import serve_world
    from duomem.serve.cascade import Behind
    from duomem.serve.desk import Desk
    from duomem.serve.metrics import Metrics
    from duomem.serve.service import Service

    metrics, student = Metrics(), serve_world.scripted_student()
    answerer = Behind(f"{teacher}/v1", "teacher", **more).answerer(student, engine, metrics)
    return Desk(Service(student, answerer)), metrics, answerer


def _ask(url: str) -> tuple[str, Any]:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    raw = client.chat.completions.with_raw_response.create(model="any", messages=[{"role": "user", "content": "Say it."}])
    return str(raw.parse().choices[0].message.content), raw.headers


def _extras() -> None:
    for name, extra in (("uvicorn", "record"), ("prometheus_client", "serve"), ("openai", "api")):
        pytest.importorskip(name, reason=f"needs the extra {extra!r}")


@pytest.mark.parametrize(("logprob", "by"), [(-0.1, "student"), (-5.0, "teacher")])
def test_a_server_asks_the_teacher_where_the_student_is_unsure(logprob: float, by: str) -> None:
    _extras()
    import serve_world
    from duomem.serve.app import Setup, application
    from duomem.serve.run import running

    with serve_world.serving(serve_world.saying("teacher", prompt=7, completion=1)) as (teacher, _):
        desk, metrics, _ = _behind(Unsure(logprob), teacher, rule=Rule(-1.0), share=Share(1.0))
        with running(application(desk, Setup(), metrics)) as url:
            text, headers = _ask(url)
            assert text == by
            assert headers["x-duomem-answered-by"] == by
            assert headers.get("x-duomem-fallback", "") == ("" if by == "student" else "unsure")
    why = "sure" if by == "student" else "unsure"
    assert f'duomem_answers_total{{by="{by}",why="{why}"}} 1.0' in metrics.text().decode()


def test_the_student_stands_in_for_a_teacher_that_is_away() -> None:
    _extras()
    import serve_world
    from duomem.serve.app import Setup, application
    from duomem.serve.run import running

    desk, metrics, _ = _behind(Unsure(-5.0), "http://127.0.0.1:9", rule=Rule(-1.0), share=Share(1.0))
    with running(application(desk, Setup(), metrics)) as url:
        text, headers = _ask(url)
    assert (text, headers["x-duomem-fallback"]) == ("student", "unsure, teacher unavailable")
    with serve_world.serving(serve_world.saying("teacher")) as (teacher, _):
        desk, metrics, _ = _behind(Unsure(-5.0), teacher, rule=Rule(-1.0), share=Share(0.0))
        with running(application(desk, Setup(), metrics)) as url:
            assert _ask(url)[1]["x-duomem-fallback"] == "unsure, share used up"


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_shadow_answers_with_one_and_compares_both(side: Any) -> None:
    _extras()
    import serve_world
    from duomem.serve.app import Setup, application
    from duomem.serve.run import running

    with serve_world.serving(serve_world.saying("teacher")) as (teacher, _):
        desk, metrics, shadow = _behind(Unsure(-5.0), teacher, shadow=side)
        with running(application(desk, Setup(), metrics)) as url:
            text, headers = _ask(url)
            assert (text, headers["x-duomem-answered-by"]) == (side, side)
        shadow.close()
    assert (shadow.compared.asked, shadow.compared.same, shadow.compared.failed) == (1, 0, 0)
    assert 'duomem_shadow_total{result="different"} 1.0' in metrics.text().decode()


def test_a_reload_and_a_stop_let_go_of_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    _extras()
    import serve_world
    from duomem.serve.app import Setup
    from duomem.serve.cascade import Behind
    from duomem.serve.engine import LocalEngine
    from duomem.serve.stand import Stand
    from duomem.serve.student import Choice

    closed: list[str] = []
    monkeypatch.setattr("duomem.models.openai_api.OpenAiModel.close", lambda self: closed.append("teacher"))
    monkeypatch.setattr("duomem.serve.stand.ProcessEngine", lambda spec, restarted: LocalEngine.of(spec))
    monkeypatch.setattr("duomem.serve.stand.open_student", lambda path, choice: serve_world.scripted_student())
    for shadow in (None, "teacher"):
        closed.clear()
        behind = Behind("http://127.0.0.1:9/v1", "teacher", shadow=shadow)  # type: ignore[arg-type]
        with Stand(Path("my.duo"), Choice(), Setup(), behind=behind) as stand:
            stand.load()
            assert closed == ["teacher"]
        assert closed == ["teacher"] * 2


def test_never_unsure_is_minus_infinity() -> None:
    assert math.isinf(Rule().threshold)


def test_the_pages_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README's and docs/cascade.md's curve is run as it stands there; the serve commands build what they say."""
    pytest.importorskip("torch", reason="the train extra is not installed")
    import re
    import shlex

    from typer.testing import CliRunner

    import serve_world
    from duomem.cli import app
    from duomem.cli.serve import _behind

    root = Path(__file__).parent.parent
    page = (root / "docs" / "cascade.md").read_text()
    own = (root / "README.md").read_text()
    own = own[own.index("## Fall back to the teacher") : own.index("## Record your own agent")]
    lines = [
        shlex.split(line, comments=True)
        for block in re.findall(r"```sh\n(.*?)```", page + own, re.S)
        for line in block.splitlines()
    ]
    curves = {tuple(line) for line in lines if line[1] == "cascade"}
    assert len(curves) == 1
    serve_world.make_run(tmp_path / "runs" / "mine", tasks=6)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, list(curves.pop())[1:])
    assert result.exit_code == 0, result.output
    assert "teacher alone" in result.output
    served = [line[line.index("duomem") + 1 :] for line in lines if "serve" in line]
    assert len(served) == 3
    for line in served:
        options = {line[at][2:]: line[at + 1] for at in range(2, len(line), 2)}
        most = float(options.get("max-fallback", 0.2))
        behind = _behind(
            Path("runs/mine"), options["fallback"], options["fallback-model"], most, None, options.get("shadow", "")
        )
        assert behind is not None
        assert behind.shadow == options.get("shadow")
    with pytest.raises(UsageError, match="--fallback-model"):
        _behind(Path("runs/mine"), "http://127.0.0.1:1/v1", "", 0.2, None, "")
    with pytest.raises(UsageError, match="need --fallback URL"):
        _behind(Path("runs/mine"), "", "", 0.2, None, "teacher")
