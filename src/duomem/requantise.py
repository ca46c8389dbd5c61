"""Scores a converted or quantised student again, before it may be shipped: its words, then its success.

In: a run of one seed and the options of a student in llama.cpp (`gguf`, `lora`, `weights`). Out: a `Rescored`; `require` raises
where the loss may be larger than the bar. First recorded replies are asked for again (golden transcripts), then both students
play the same development games, as many as the bar needs. It converts nothing and never opens a held-out split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from duomem import evaluate, parts
from duomem.agent import Player
from duomem.envs import Env
from duomem.errors import DataError, UsageError
from duomem.journal import Journal
from duomem.models import ContextFull, Model
from duomem.prompts import conversation
from duomem.registry import component
from duomem.rollout import Job as Game
from duomem.rollout import Progress, rollout
from duomem.rundir import RunFolder
from duomem.scores import ARMS
from duomem.stats import Interval, paired_interval
from duomem.talk import SILENT, Talk
from duomem.types import Message, Sampling, Task, Trajectory

BAR = 0.03
"""Success that quantising may cost at most, at the lower end of the paired interval: 3 points (P17 of the performance bars)."""
FIRST, MOST = 96, 600
"""Games played at first, to see on how many the two students differ, and at most."""
DEV, DEV_SEED = "dev", 20
"""Split of the games that are written for it where the environment can, and their seed."""
SPLITS = (DEV, "valid_seen")
"""Where games are looked for otherwise; held-out splits are never played here."""
NEARLY = 0.99
"""Share of recorded replies that a lossless conversion gives again; sums in another order flip a near tie now and then."""
GOLDEN = 24
"""Recorded episodes whose replies are asked for again."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How a student's greedy replies compare with recorded ones, each after the recorded conversation before it.

    `tokens` counts those of the recorded replies, `agreed` those up to each reply's first difference; `first` shows one.
    """

    replies: int
    equal: int
    tokens: int
    agreed: int
    first: str = ""

    @property
    def exact(self) -> bool:
        return self.replies > 0 and self.equal == self.replies

    @property
    def share(self) -> float:
        """Of replies that are the same; 0 where none were recorded."""
        return self.equal / self.replies if self.replies else 0.0

    @property
    def words(self) -> str:
        return f"{self.equal} of {self.replies} recorded replies again word for word ({self.agreed} of {self.tokens} tokens)"


@dataclass(frozen=True, slots=True)
class Rescored:
    """What became of a student. `change` is its success less that of the one measured, as a fraction, with its interval."""

    weights: str
    parity: Parity
    games: int = 0
    before: float = 0.0
    after: float = 0.0
    change: Interval | None = None
    differ: int = 0
    """Games that only one of the two won."""
    split: str = ""
    bar: float = BAR

    @property
    def passed(self) -> bool:
        """The same words but for what rounding may flip, or a loss that is surely within the bar."""
        return self.change.low > -self.bar if self.change else self.parity.share >= NEARLY

    @property
    def words(self) -> str:
        said = f"{self.weights}: {self.parity.words}"
        if not self.change:
            return said + "; no games were played"
        low, high = 100 * self.change.low, 100 * self.change.high
        return (
            f"{said}; {100 * self.after:.1f}% of {self.games} {self.split} games won, {100 * self.before:.1f}% before: "
            f"{100 * self.change.estimate:+.1f} points [{low:+.1f}, {high:+.1f}]"
        )


def require(
    seed: RunFolder, arm: str, options: dict[str, Any], *, bar: float = BAR, most: int = MOST, talk: Talk = SILENT
) -> Rescored:
    """Score the student `options` (of `models/llamacpp`) of one seed's arm again, for a bundle.

    A file that says the recorded replies again passes by that (`NEARLY`); any other has to play. Raises `DataError` where the
    loss may be larger than `bar`, or too few games can be had to tell, `UsageError` where replies differ and nothing was
    evaluated to play.
    """
    found = rescore(seed, arm, options, bar=bar, most=most, talk=talk)
    if found.passed:
        return found
    if found.change is None:
        raise UsageError(
            f"The converted student differs from the measured one ({found.words}; first: {found.parity.first or 'none'}), "
            "and the run has no evaluated games to compare them on. Ship the weights as they were measured: --weights f32"
        )
    raise DataError(
        f"The converted student may lose more than {100 * bar:g} points: {found.words}. Ship more bits (--weights q8_0 or "
        "f32), or play more games."
    )


def rescore(
    seed: RunFolder, arm: str, options: dict[str, Any], *, bar: float = BAR, most: int = MOST, talk: Talk = SILENT
) -> Rescored:
    """The same without a verdict. `seed` is a run folder of one seed; `arm` is what it ships: memory, adapter or both."""
    episodes = golden(seed, arm)
    with parts.Parts(seed, "bundle") as opened:
        after = opened.model("llamacpp", options, "student")
        sampling = Sampling(0.0, seed.settings.student.max_tokens)
        weights = after.provenance()["weights"]
        same = parity(after, episodes, parts.layout(seed.settings), sampling)
        if same.share >= NEARLY or not most or not episodes:
            return Rescored(weights, same, bar=bar)
        with games(seed, most) as (env, tasks):
            if not tasks:
                return Rescored(weights, same, bar=bar)
            player = seated(seed, opened, env, arm)
            talk.note(f"{same.words}: playing {tasks[0].split} games with both.")
            return play(player, replace(player, model=after), tasks, Rescored(weights, same, bar=bar), talk=talk)


def golden(seed: RunFolder, arm: str, count: int = GOLDEN) -> list[Trajectory]:
    """Recorded episodes of the arm that the evaluation played with this seed, evenly spread; none where it has none."""
    path = (seed.home or seed.root) / seed.journal.name
    beginning = f"evaluate/{seed.settings.evaluate.split}/{arm}/seed{seed.settings.run.seed}"
    if not path.is_file() or seed.settings.student.temperature > 0:
        return []
    with Journal.open(path, readonly=True) as journal:
        played = [each for each in journal.trajectories(journal.latest(beginning)) if each.turns]
    few = min(count, len(played))
    return [played[place * len(played) // few] for place in range(few)]


def parity(model: Model, episodes: Sequence[Trajectory], layout: Any, sampling: Sampling, callers: int = 8) -> Parity:
    """Ask for every reply of recorded episodes again, each after the recorded messages before it; one episode a caller."""
    count = getattr(model, "tokenizer", None)

    def ids(text: str) -> list[Any]:
        return list(count.encode(text, add_special_tokens=False)) if count else text.split()

    def one(episode: Trajectory) -> list[tuple[str, str]]:
        messages = conversation(layout, episode)
        at = [index for index, message in enumerate(messages) if message.role == "assistant" and index >= len(episode.prompt)]
        return [(spoken(messages[index]), _asked(model, messages[:index], episode, sampling)) for index in at]

    with ThreadPoolExecutor(callers) as pool:
        pairs = [pair for found in pool.map(one, episodes) for pair in found]
    told = [(ids(wanted), ids(said)) for wanted, said in pairs]
    other = next((f"{said!r} for {wanted!r}" for wanted, said in pairs if wanted != said), "")
    return Parity(
        replies=len(pairs),
        equal=sum(wanted == said for wanted, said in pairs),
        tokens=sum(len(wanted) for wanted, _ in told),
        agreed=sum(_common(wanted, said) for wanted, said in told),
        first=other,
    )


def spoken(message: Message) -> str:
    """What a reply says and does, as one text."""
    return message.text + "".join(f"\n{call.name} {call.arguments}" for call in message.tool_calls)


def _asked(model: Model, messages: Sequence[Message], episode: Trajectory, sampling: Sampling) -> str:
    try:
        return spoken(model.reply(messages, episode.tools, sampling).message)
    except ContextFull:
        return ""


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


@contextmanager
def games(seed: RunFolder, most: int) -> Iterator[tuple[Env, list[Task]]]:
    """Development games of the run's environment, at most `most`, drawn at random: written for this where the environment plays
    files, else those that it has. None for one without such a split."""
    settings = seed.settings
    if "data_root" not in component("envs", settings.env.name).Config.model_fields:
        env = parts.environment(seed)
        yield env, _drawn(env, most)
        return
    from duomem.games.write import write_games

    with TemporaryDirectory(prefix="duomem-games-") as folder:
        write_games(Path(folder), DEV, most, DEV_SEED)
        options = settings.options("env") | {"data_root": folder}
        env = parts.build("envs", settings.env.name, {key: value for key, value in options.items() if key != "official"})
        yield env, _drawn(env, most)


def _drawn(env: Env, most: int) -> list[Task]:
    for split in SPLITS:
        try:
            return evaluate.sample(env.tasks(split), most, DEV_SEED)[0]
        except UsageError:
            continue
    return []


def seated(seed: RunFolder, opened: parts.Parts, env: Env, arm: str) -> Player:
    """The measured student of an arm, ready to play."""
    adapter = seed.adapter if ARMS[arm].adapter else None
    player = opened.student(seed, env, adapter)
    return evaluate.seat(ARMS[arm], evaluate.Parts(player, player), {})


def play(
    before: Player,
    after: Player,
    tasks: Sequence[Task],
    found: Rescored,
    *,
    callers: int = 8,
    talk: Talk = SILENT,
) -> Rescored:
    """Both players on the same games: `FIRST` of them, then as many as the share on which they differ asks for (an internal
    pilot: Wittes & Brittain 1990, Statistics in Medicine 9:65), and one interval at the end."""
    won: dict[str, tuple[bool, bool]] = {}
    wanted = min(FIRST, len(tasks))
    while len(won) < wanted:
        batch = [Game(task) for task in tasks[len(won) : wanted]]
        arms = [
            rollout(batch, player, concurrency=callers, progress=_told(talk, name))
            for name, player in (("measured student", before), ("converted student", after))
        ]
        if broken := [error for arm in arms for error in arm.errors]:
            raise DataError(f"A game could not be played: {broken[0].task.id}: {broken[0].error}")
        pairs = zip(arms[0].trajectories, arms[1].trajectories, strict=True)
        won |= {one.task.id: (one.won, other.won) for one, other in pairs}
        differ = sum(one != other for one, other in won.values())
        wanted = min(len(tasks), max(wanted, needed(differ / len(won), found.bar)))
    n, wins = len(won), sum(after_ and not before_ for before_, after_ in won.values())
    return replace(
        found,
        games=n,
        before=sum(before_ for before_, _ in won.values()) / n,
        after=sum(after_ for _, after_ in won.values()) / n,
        change=paired_interval(wins, differ - wins, n),
        differ=differ,
        split=tasks[0].split,
    )


def _told(talk: Talk, name: str) -> Callable[[Progress], None]:
    return lambda now: talk.progress(name, now.done, now.total, f"{now.won} won")


def needed(discordance: float, bar: float = BAR) -> int:
    """Games after which an interval of no loss at all ends above `-bar`, where the students differ on that share of them."""
    games = FIRST
    while 1.96 * math.sqrt(discordance * games + 1) / (games + 2) > bar:
        games += 8
    return games
