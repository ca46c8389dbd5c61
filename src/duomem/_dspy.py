"""DSPy's own classes around ours: an adapter that writes a layout's prompts, an engine that asks our models, a tuning provider.

In: a layout, models, a tuner. Out: what `dspy.BetterTogether` works on. The only file that imports dspy (extra "dspy"); only
`bettertogether` imports it. Not here: the log, the games, what is made of the best program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy
from dspy.clients.provider import Provider
from dspy.lm15 import Message as Said
from dspy.lm15 import Response
from dspy.lm15 import Usage as Counted
from dspy.utils.exceptions import AdapterParseError

from duomem import prompts
from duomem.models import Model
from duomem.prompts import Layout
from duomem.types import Example, Message, Reply, Sampling, Tool, digest

Spoken = list[dict[str, str]]


class Act(dspy.Signature):  # type: ignore[misc]
    """The next reply of a conversation with an environment."""

    conversation: list[dict[str, str]] = dspy.InputField()
    reply: str = dspy.OutputField()


class Adapter(dspy.ChatAdapter):  # type: ignore[misc]
    """Renders a call as the layout does: demonstrations stand where memories stand."""

    def __init__(self, layout: Layout, demonstration: Callable[[Spoken, str], str]) -> None:
        super().__init__(use_json_adapter_fallback=False)
        self._layout, self._demonstration = layout, demonstration

    def format(self, signature: Any, demos: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> Spoken:
        texts = [self._demonstration(demo["conversation"], demo["reply"]) for demo in demos]
        messages = messages_of(inputs["conversation"])
        start = next((index for index, message in enumerate(messages) if message.role == "assistant"), len(messages))
        words = prompts.read_opening(self._layout, messages[:start])
        assert words is not None, "a conversation begins as the layout writes it"
        return spoken([*prompts.opening(self._layout, *words, texts), *messages[start:]])

    def parse(self, signature: Any, completion: str) -> dict[str, str]:
        return {"reply": completion}

    def format_assistant_message_content(
        self, signature: Any, outputs: Mapping[str, Any], missing_field_message: str | None = None
    ) -> str:
        return str(outputs["reply"])


class Engine:
    """DSPy's engine contract: one request, one response. `model` gives the model of a name."""

    def __init__(self, model: Callable[[str], Model], sampling: Sampling) -> None:
        self._model, self._sampling = model, sampling

    def __deepcopy__(self, memo: object) -> Engine:
        return self  # programs are copied, models are not

    def complete(self, request: Any) -> Any:
        messages = [Message.of(each.role, each.text or "") for each in request.messages]
        if request.system:
            text = request.system if isinstance(request.system, str) else "".join(part.text for part in request.system)
            messages.insert(0, Message.of("system", text))
        reply = self._model(request.model).reply(messages, (), self._sampling)
        used = Counted(reply.usage.prompt, reply.usage.completion, reply.usage.prompt + reply.usage.completion)
        return Response(None, request.model, Said.assistant(reply.message.text or " "), reply.finish, used)


class Tuning(Provider):  # type: ignore[misc]
    """DSPy's finetuning provider: each request to finetune is one adapter by `tune`, which returns the new model's name."""

    def __init__(self, tune: Callable[[Sequence[Example]], str]) -> None:
        super().__init__()
        self.finetunable = True
        self._tune = tune

    def __deepcopy__(self, memo: object) -> Tuning:
        return self

    def finetune(  # the base's is static, and called through an instance
        self, job: Any, model: str, train_data: list[dict[str, Any]], train_data_format: Any, train_kwargs: Any = None
    ) -> str:
        examples = []
        for row in train_data:
            messages = tuple(messages_of(row["messages"]))
            learn = (*(0.0 for _ in messages[1:]), 1.0)
            examples.append(Example(messages, learn, digest(row["messages"])))
        return self._tune(sorted({example.source: example for example in examples}.values(), key=lambda each: each.source))


class Predicted:
    """A `Model` whose replies are predictions of a DSPy program, so that our loop plays and DSPy sees every call."""

    def __init__(self, act: Any) -> None:
        self._act = act

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        try:
            said = self._act(conversation=spoken(messages)).reply
        except AdapterParseError:  # an empty answer
            said = ""
        return Reply(Message.of("assistant", said))

    def provenance(self) -> dict[str, str]:
        return {"model": "dspy", "revision": dspy.__version__}

    def close(self) -> None:
        return None


class Game:
    """Plays; shared by the copies of a program."""

    def __init__(self, play: Callable[[Model, str], bool]) -> None:
        self.play = play

    def __deepcopy__(self, memo: object) -> Game:
        return self


class Program(dspy.Module):  # type: ignore[misc]
    """One episode: `play(model, task)` says whether it was won."""

    def __init__(self, play: Callable[[Model, str], bool]) -> None:
        super().__init__()
        self.act = dspy.Predict(Act)
        self._game = Game(play)

    def forward(self, task: str) -> Any:
        return dspy.Prediction(won=self._game.play(Predicted(self.act), task))


def spoken(messages: Sequence[Message]) -> Spoken:
    return [{"role": message.role, "content": message.text} for message in messages]


def messages_of(rows: Sequence[Mapping[str, str]]) -> list[Message]:
    return [Message.of(row["role"], row["content"]) for row in rows]  # type: ignore[arg-type]


def language_model(name: str, engine: Engine, provider: Tuning | None = None) -> Any:
    return dspy.LM(name, engine=engine, provider=provider, cache=False, num_retries=0)


def compile_program(
    student: Program,
    teacher: Program,
    default: Any,
    adapter: Adapter,
    tasks: Sequence[str],
    checked: Sequence[str],
    *,
    strategy: str,
    demos: int,
    candidates: int,
    threads: int,
    seed: int,
) -> Any:
    """`BetterTogether` with its two default optimisers. The teacher is handed to each of them: 3.4 hands on a list of
    teachers, and the random search takes one."""

    def won(example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(prediction.won)

    def examples(names: Sequence[str]) -> list[Any]:
        return [dspy.Example(task=name).with_inputs("task") for name in names]

    search = dspy.BootstrapFewShotWithRandomSearch(
        metric=won, max_bootstrapped_demos=demos, max_labeled_demos=0, num_candidate_programs=candidates, num_threads=threads
    )
    finetune = dspy.BootstrapFinetune(metric=won, adapter=adapter, num_threads=threads)
    together = dspy.BetterTogether(metric=won, p=search, w=finetune)
    with dspy.context(lm=default, adapter=adapter, num_threads=threads, disable_history=True):
        return together.compile(
            student,
            trainset=examples(tasks),
            valset=examples(checked),
            num_threads=threads,
            seed=seed,
            strategy=strategy,
            optimizer_compile_args={
                # No candidate -2: labelled examples, of which there are none.
                "p": {"teacher": teacher, "restrict": [-3, -1, *range(candidates)]},
                "w": {"teacher": teacher},
            },
        )
