"""What a run will cost and what came of what it cost.

In: a run's `[price]` table, its tasks, its ledger (`duomem.spending`) and results. Out: an estimate before anything is paid
for, and after it an account: cost per success and per memory, and after how many tasks the student has paid for itself. Prices
are the config's; none is known here. It asks no model and stops nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from duomem.config import PriceTable, RateTable, Settings
from duomem.errors import UsageError
from duomem.registry import component
from duomem.rundir import RunFolder
from duomem.scores import Results, Score
from duomem.spending import Entry, Ledger, Meter, Rates
from duomem.types import Usage

_PROMPT_OF_A_WRITER = 300
"""Tokens of the instructions to a writing model."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that will be paid for: `calls` requests with about `usage` tokens, at most `worst`. Costs are in the run's
    currency; `cost_cached` holds where the endpoint charges the cached price for all that it has read before."""

    what: str
    role: str
    calls: int
    usage: Usage
    worst: Usage
    cost: float
    cost_cached: float
    cost_worst: float


def billed(settings: Settings, role: str) -> bool:
    """Whether a role is played by an endpoint that may ask for money. "writer" is the model that writes memories."""
    name = _model_of(settings, role)
    return bool(name) and bool(getattr(component("models", name), "BILLED", False))


def rates(settings: Settings) -> dict[str, Rates]:
    """Rates by role; a writer without rates of its own has those of the role that writes."""
    table = settings.price or PriceTable()
    found = {"teacher": _rates(table.teacher), "student": _rates(table.student)}
    writes = "student" if _writer(settings).get("writer") == "student" else "teacher"
    return found | {"writer": _rates(table.writer) if table.writer else found[writes]}


def meter(run: RunFolder) -> Meter:
    """The run's meter; its seeds share one. Raises `UsageError` for a limit of money that no price can hold."""
    table = run.settings.price or PriceTable()
    known = rates(run.settings)
    paid = [role for role in known if billed(run.settings, role)]
    if table.max_cost is not None and (free := [role for role in paid if not known[role].known]):
        raise UsageError(
            f"price.max_cost = {table.max_cost:g} cannot be held: the {free[0]} is a paid endpoint without a price. Say what a "
            f"million tokens cost (--set price.{free[0]}.input=..., price.{free[0]}.output=...), or limit tokens: --max-tokens"
        )
    ledger = Ledger(ledger_path(run))
    return Meter(ledger, known, max_cost=table.max_cost, max_tokens=table.max_tokens, currency=table.currency)


def ledger_path(run: RunFolder) -> Path:
    return (run.home or run.root) / "spent.sqlite"


def estimate(
    settings: Settings,
    *,
    episodes: int = 0,
    games: int = 0,
    writes: int = 0,
    done: Sequence[Entry] = (),
    finished: int = 0,
) -> list[Item]:
    """What is still to be paid for `episodes` of the teacher, `finished` of which are there, `games` of evaluation and memories
    from `writes` trajectories.

    Turns and tokens are those of `done` where any episode is finished, else the config's expectation.
    """
    table, items = settings.price or PriceTable(), []
    turns = min(table.turns, settings.rollout.max_steps)
    collected = [entry for entry in done if entry.what == "collect" and entry.role == "teacher"]
    known = finished and collected
    each = _mean(collected, finished) if known else _episode(table, turns, table.reply_tokens)
    calls = sum(entry.replies for entry in collected) / finished if known else turns
    worst = _episode(table, settings.rollout.max_steps, settings.teacher.max_tokens)
    if billed(settings, "teacher"):
        if left := max(0, episodes - finished):
            items.append(_item(settings, "collect", "teacher", round(left * calls), _times(each, left), _times(worst, left)))
        if games and "teacher" in settings.evaluate.arms:
            items.append(
                _item(settings, "evaluate", "teacher", round(games * calls), _times(each, games), _times(worst, games))
            )
    if writes and billed(settings, "writer"):
        longest = int(_writer(settings).get("writer_tokens", 400))
        read = _PROMPT_OF_A_WRITER + table.first_tokens + int(turns * table.turn_tokens)
        each, worst = Usage(read, 0, longest // 2), Usage(2 * read, 0, 2 * longest)  # at worst each is asked twice
        items.append(_item(settings, "remember", "writer", writes, _times(each, writes), _times(worst, writes)))
    return items


def ahead(run: RunFolder) -> list[Item]:
    """The estimate of a run as its config stands, less the episodes that are there. Opens the environment where a config says
    "all tasks"."""
    settings, seeds = run.settings, run.seeds()
    episodes = len(seeds) * settings.teacher.attempts * (settings.teacher.tasks or _size(run, settings.teacher.split))
    games = settings.evaluate.games or (_size(run, settings.evaluate.split) if billed(settings, "teacher") else 0)
    finished = sum(int(found["episodes"]) for seed in seeds if (found := seed.left("collect")))
    writes = 0 if all(seed.left("remember") for seed in seeds) else episodes
    return estimate(settings, episodes=episodes, games=games, writes=writes, done=entries(run), finished=finished)


def _size(run: RunFolder, split: str) -> int:
    """Tasks of a split: as the run's [games] table says, else as the environment finds them."""
    from duomem.parts import environment

    spec = run.settings.games.get(split)
    return spec.n if spec else len(environment(run).tasks(split))


def tell(run: RunFolder, note: Callable[[str], None], **asked: int) -> None:
    """Say what is about to be paid for (see `estimate`), before any of it is. Says nothing where all is free."""
    done = () if run.home else entries(run)  # of several seeds, the ledger holds all and the journal one
    if words := estimate_words(run.settings, estimate(run.settings, done=done, **asked)):
        note(words)


def estimate_words(settings: Settings, items: Sequence[Item]) -> str:
    """An estimate as a sentence or two; empty where nothing is paid for."""
    if not items:
        return ""
    table, known = settings.price or PriceTable(), rates(settings)
    lines = []
    for item in items:
        tokens = f"{item.calls:,} calls, {item.usage.prompt:,} prompt and {item.usage.completion:,} completion tokens"
        money = f"{item.cost:.2f} {table.currency} ({item.cost_cached:.2f} with prompt caching, at most {item.cost_worst:.2f})"
        lines.append(f"{item.what}: about {tokens}" + (f", {money}" if known[item.role].known else ", no price in [price]"))
    total = sum(item.cost for item in items)
    limit = table.max_cost
    if limit is not None and total > limit:
        lines.append(f"More than max_cost = {limit:g} {table.currency}: it will stop there and can be gone on with.")
    return "; ".join(lines) + "."


def account(run: RunFolder) -> dict[str, Any]:
    """What was spent, on what, and what it came to. Parts that are not there yet are None."""
    table, known = run.settings.price or PriceTable(), rates(run.settings)
    used = entries(run)
    cost = {what: sum(known[each.role].cost(each.total) for each in used if each.what == what) for what in _WHATS}
    seeds = run.seeds()
    won, episodes = _sum(seeds, "collect", "won"), _sum(seeds, "collect", "episodes")
    memories = _sum(seeds, "remember", "memories")
    hours = sum(_sum(seeds, verb, "seconds") or 0.0 for verb in ("remember", "tune")) / 3600
    fixed = cost["collect"] + cost["remember"] + hours * table.machine_hour
    teacher = cost["collect"] / episodes if episodes else None
    found: dict[str, Any] = {
        "currency": table.currency,
        "spent": {**cost, "total": sum(cost.values())},
        "tokens": [asdict(entry) for entry in used],
        "teacher_successes": won,
        "cost_per_success": cost["collect"] / won if won else None,
        "cost_per_memory_written": cost["remember"] / memories if memories else None,
        "cost_per_memory": (cost["collect"] + cost["remember"]) / memories if memories else None,
        "fixed_cost": fixed,
        "teacher_cost_per_task": teacher,
        "teacher_success": won / episodes if episodes and won is not None else None,
    }
    return found | {"students": _students(run, fixed, found)}


def account_words(found: dict[str, Any]) -> str:
    """An account as lines to read."""
    unit = found["currency"]
    spent = ", ".join(f"{what} {cost:.4f}" for what, cost in found["spent"].items())
    lines = [f"Spent ({unit}): {spent}."]
    for key, words in (
        ("cost_per_success", "per success of the teacher"),
        ("cost_per_memory", "per memory, its episodes included"),
        ("cost_per_memory_written", "per memory, writing alone"),
        ("teacher_cost_per_task", "per task of the teacher"),
    ):
        if found[key] is not None:
            lines.append(f"{found[key]:.6f} {unit} {words}.")
    for arm, each in found["students"].items():
        tasks = each["break_even_tasks"]
        after = "no cheaper than the teacher" if tasks is None else f"has paid for itself after {tasks:,} tasks"
        lines.append(f"{arm}: {each['cost_per_task']:.6f} {unit} per task, {each['success']:.1%} won; {after}.")
    return "\n".join(lines)


_WHATS = ("collect", "remember", "evaluate")


def break_even(fixed: float, teacher: float, student: float) -> int | None:
    """The number of tasks after which `fixed` costs are won back, at costs per task; None: never."""
    return math.ceil(fixed / (teacher - student)) if teacher > student else None


def _students(run: RunFolder, fixed: float, found: dict[str, Any]) -> dict[str, Any]:
    """Cost per task and break-even of each arm of the student that was played."""
    teacher = found["teacher_cost_per_task"]
    if teacher is None or not run.results.is_file():
        return {}
    results, table, rate = Results.read(run.results), run.settings.price or PriceTable(), rates(run.settings)["student"]
    answer: dict[str, Any] = {}
    for arm in results.arms:
        scores = [score for score in results.of(arm.name) if score.stop.is_outcome]
        if arm.model == "teacher" or not scores:
            continue
        cost = sum(_cost(score, rate, table.machine_hour) for score in scores) / len(scores)
        success = sum(score.won for score in scores) / len(scores)
        each = {"cost_per_task": cost, "success": success, "break_even_tasks": break_even(fixed, teacher, cost)}
        if success and found["teacher_success"]:
            # Dearer or cheaper per task that is done: a student that fails more has to try more.
            each["cost_per_success"] = cost / success
            each["break_even_successes"] = break_even(fixed, teacher / found["teacher_success"], cost / success)
        answer[arm.name] = each
    return answer


def _cost(score: Score, rate: Rates, hour: float) -> float:
    return rate.cost(score.usage) + score.seconds / 3600 * hour


def entries(run: RunFolder) -> list[Entry]:
    path = ledger_path(run)
    if not path.is_file():
        return []
    ledger = Ledger(path)
    try:
        return ledger.entries()
    finally:
        ledger.close()


def _sum(seeds: Sequence[RunFolder], verb: str, key: str) -> float | None:
    found = [result[key] for seed in seeds if (result := seed.left(verb)) and key in result]
    return sum(found) if found else None


def _model_of(settings: Settings, role: str) -> str:
    if role == "teacher":
        return settings.teacher.model
    if role == "student":
        return settings.student.model
    memory = _writer(settings)
    writer = str(memory.get("writer", "rules"))
    if writer in ("teacher", "student"):
        return _model_of(settings, writer)
    return str(memory.get("writer_model", {}).get("model", ""))


def _writer(settings: Settings) -> dict[str, Any]:
    return settings.options("memory") if settings.memory else {}


def _rates(table: RateTable) -> Rates:
    return Rates(table.input, table.input if table.cached is None else table.cached, table.output)


def _episode(table: PriceTable, turns: float, reply: int) -> Usage:
    """Tokens of one episode. Each prompt is the one before and a turn more, so that they grow with the square of the turns."""
    grown = table.turn_tokens + max(0, reply - table.reply_tokens)
    prompt = turns * table.first_tokens + grown * turns * (turns - 1) / 2
    return Usage(round(prompt), round(prompt - table.first_tokens - (turns - 1) * grown), round(turns * reply))


def _mean(entries: Sequence[Entry], finished: int) -> Usage:
    total = sum((entry.total for entry in entries), Usage())
    return Usage(total.prompt // finished, total.cached // finished, total.completion // finished)


def _times(usage: Usage, count: int) -> Usage:
    return Usage(usage.prompt * count, usage.cached * count, usage.completion * count)


def _item(settings: Settings, what: str, role: str, calls: int, usage: Usage, worst: Usage) -> Item:
    rate = rates(settings)[role]
    uncached = Usage(usage.prompt, 0, usage.completion)
    dearest = Usage(worst.prompt, 0, worst.completion)
    return Item(what, role, calls, usage, worst, rate.cost(uncached), rate.cost(usage), rate.cost(dearest))
