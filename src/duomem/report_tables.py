"""The tables of a report, as text cells, for the pages to lay out.

In: a `Summary` and the scores. Out: `Table`s. Shares are in percent, differences in points. It draws no conclusion and knows no
markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from duomem.scores import Results
from duomem.summary import Group, Retrieval, Summary

TITLES = {
    "none": "none",
    "format_only": "format only",
    "memory": "memory",
    "adapter": "adapter",
    "both": "both",
    "decoy": "decoy memories",
    "teacher": "teacher",
    "no_same_room": "memory, other rooms",
    "both_decoy": "adapter + decoys",
    "both_no_same_room": "both, other rooms",
}
"""What arms are called on a page."""


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` are as long as `head`; the first column names the row. `note` is one sentence to stand below."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def span(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{100 * high:.1f}"


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def arms(summary: Summary) -> Table:
    rows = tuple(
        (
            TITLES[name],
            percent(arm.success),
            span(*arm.interval),
            f"{arm.n}" + (f" × {arm.seeds} seeds" if arm.seeds > 1 else ""),
            f"{arm.mean_steps:.1f}",
            "–" if arm.steps_to_success is None else f"{arm.steps_to_success:.1f}",
            percent(arm.invalid_rate),
            f"{arm.truncated}",
            f"{arm.errors}",
        )
        for name, arm in summary.arms.items()
    )
    head = ("arm", "success", "95% interval", "games", "steps", "steps, won", "invalid", "cut off", "errors")
    note = (
        "Success is the environment's own word. Interval: Wilson for one seed, crossed bootstrap over seeds, games and rooms "
        "for several. Invalid: share of turns whose action was not understood or did nothing. Errors are in no other figure."
    )
    return Table("Arms", head, rows, note)


def costs(summary: Summary) -> Table:
    rows = tuple(
        (
            TITLES[name],
            f"{arm.prompt_tokens:,.0f}",
            f"{arm.cached_tokens:,.0f}",
            f"{arm.completion_tokens:,.0f}",
            f"{arm.seconds_per_task:.2f}",
            f"{arm.memories:.1f}",
            f"{arm.memory_bytes:,.0f}",
            percent(arm.unparsed_rate),
            f"{arm.repaired}",
        )
        for name, arm in summary.arms.items()
    )
    head = ("arm", "prompt tokens", "cached", "completion", "seconds", "memories", "memory bytes", "unparsed", "repaired")
    return Table(
        "What an episode costs", head, rows, "Means per episode; unparsed is a share of turns, repaired a count of actions."
    )


def pairs(summary: Summary) -> Table:
    rows = tuple(
        (
            " − ".join(TITLES[part] for part in name.split("-")),
            f"{100 * pair.difference:+.1f}",
            f"{100 * pair.interval[0]:+.1f} to {100 * pair.interval[1]:+.1f}",
            f"{pair.mcnemar_p:.3f}" if pair.mcnemar_p >= 0.001 else "< 0.001",
            f"{pair.wins} : {pair.losses}",
            f"{pair.n}",
        )
        for name, pair in summary.pairs.items()
    )
    head = ("pair", "points", "95% interval", "McNemar p", "wins : losses", "games")
    note = (
        "The same games and seeds, paired. Interval: the wider of the crossed bootstraps over seeds x games and seeds x rooms. "
        "McNemar's exact test; with several seeds a game counts as one, by an exact sign-flip test of its sum. "
        "Nothing is corrected for making several comparisons."
    )
    return Table("Arm against arm", head, rows, note)


def groups(summary: Summary, field: str) -> Table:
    """Success by task type (`by_type`) or room (`by_room`)."""
    by_arm: dict[str, Mapping[str, Group]] = {name: getattr(arm, field) for name, arm in summary.arms.items()}
    names = list(dict.fromkeys(name for groups in by_arm.values() for name in groups))
    sizes = {name: max(groups[name].n for groups in by_arm.values() if name in groups) for name in names}
    rows = tuple(
        (name, str(sizes[name]), *(percent(groups[name].success) if name in groups else "–" for groups in by_arm.values()))
        for name in names
    )
    what = "task type" if field == "by_type" else "room"
    return Table(f"Success by {what}", (what, "games", *(TITLES[name] for name in by_arm)), rows)


def seeds(summary: Summary) -> Table:
    many = {name: arm for name, arm in summary.arms.items() if arm.seeds > 1}
    names = [str(seed) for seed in summary.seeds]
    rows = tuple((TITLES[name], *(percent(arm.success_by_seed.get(seed)) for seed in names)) for name, arm in many.items())
    return Table("Success by seed", ("arm", *(f"seed {seed}" for seed in names)), rows if many else ())


def stops(summary: Summary) -> Table:
    reasons = sorted({reason for arm in summary.arms.values() for reason in arm.stops})
    rows = tuple((TITLES[name], *(str(arm.stops.get(reason, 0)) for reason in reasons)) for name, arm in summary.arms.items())
    return Table("How episodes ended", ("arm", *(reason.replace("_", " ") for reason in reasons)), rows)


def steps(results: Results, marks: Sequence[int]) -> Table:
    """Share of games won within so many steps."""
    rows = tuple((TITLES[arm.name], *(percent(won_within(results, arm.name, mark)) for mark in marks)) for arm in results.arms)
    return Table("Games won within so many steps", ("arm", *(str(mark) for mark in marks)), rows)


def won_within(results: Results, arm: str, limit: int) -> float:
    played = [score for score in results.of(arm) if score.stop.is_outcome]
    return sum(score.won and score.steps <= limit for score in played) / max(1, len(played))


def losses(results: Results) -> Table:
    """Training loss at up to ten steps."""
    found = results.facts.losses
    marks = sorted({round(number * (len(found) - 1) / 9) for number in range(10)}) if found else []
    return Table("Training loss", ("step", "loss"), tuple((str(mark + 1), f"{found[mark]:.4f}") for mark in marks))


_HELD = {
    "free": "anything",
    "grammar": "commands in the environment's forms (a grammar)",
    "legal": "LEGAL ACTIONS ONLY, as the environment tells them: a strong hint",
}


def conditions(summary: Summary) -> Table:
    """What a reader has to know to compare these figures with others'."""
    settings, data = summary.settings, summary.data
    drawn = "all of them" if summary.sample_seed is None else f"a sample drawn with seed {summary.sample_seed}"
    rows = [
        ("Split", f"{summary.split}: {summary.games} of {summary.games_of} games, {drawn}; each game once per arm and seed"),
        ("Rooms", _rooms(summary)),
        ("Games found, official counts", _counts(summary)),
        ("Step cap", f"{settings.get('max_steps', 'not recorded')} steps; an episode that reaches it has not won"),
        ("Admissible commands in the prompt", _switch(settings.get("admissible", data.get("admissible", "off")))),
        (
            "Repair of actions",
            f"{_switch(settings.get('repair', 'off'))}; {sum(arm.repaired for arm in summary.arms.values())} repaired",
        ),
        ("What the student may say", _HELD.get(settings.get("actions", "free"), settings.get("actions", "free"))),
        ("Errors", f"{sum(arm.errors for arm in summary.arms.values())} episodes without an outcome; never scored as failures"),
        ("Retrieval", _retrieval(summary.retrieval)),
        ("Memory's effect", "real less decoy memories: as many, about as long, from tasks of other types"),
        ("Seeds", f"{', '.join(str(seed) for seed in summary.seeds)}; arms that no seed changes are played once when greedy"),
        (
            "Smallest difference this run can detect",
            f"{100 * summary.detectable_difference:.1f} points, paired, by games alone",
        ),
    ]
    return Table("Under what conditions", ("condition", "here"), tuple(rows))


def provenance(summary: Summary) -> Table:
    """Everything recorded about the run."""
    rows = [("commit", summary.commit), ("config hash", summary.config_hash), ("made", summary.made)]
    rows.append(("adapter", f"{summary.adapter_parameters:,} trainable parameters" if summary.adapter_parameters else "none"))
    rows.append(("bank", f"{summary.memories:,} memories, {size(summary.memory_bytes)}" if summary.memory_bytes else "none"))
    rows += [(f"seconds: {verb}", f"{seconds:,.1f}") for verb, seconds in summary.seconds.items()]
    for title, facts in (("", summary.settings), ("data: ", summary.data), ("", summary.hardware), ("", summary.versions)):
        rows += [(title + name, value) for name, value in facts.items()]
    return Table("How it was made", ("what", "value"), tuple(row for row in rows if row[1]))


def _switch(value: str) -> str:
    return {"false": "off", "true": "ON"}.get(value, value)


def _rooms(summary: Summary) -> str:
    shared = summary.settings.get("rooms_shared_with_teaching", "")
    return f"{len(summary.rooms)}: {', '.join(summary.rooms)}" + (f"; {shared} also taught in" if shared else "")


def _counts(summary: Summary) -> str:
    """What the environment says of the split, beside the official counts."""
    found = summary.data.get(f"{summary.split}.games", str(summary.games_of))
    skipped = summary.data.get(f"{summary.split}.skipped", "0")
    left_out = f"; left out: {skipped}" if skipped != "0" else ""
    return f"{found}{left_out}; ALFWorld has train 3,553, valid_seen 140, valid_unseen 134"


def _retrieval(retrieval: Retrieval | None) -> str:
    if retrieval is None:
        return "no memories were shown"
    low, middle, high = retrieval.similarity
    return (
        f"nearest memory of the right task type in {percent(retrieval.top1_type)}, "
        f"of the right object in {percent(retrieval.top1_object)} of {retrieval.n} episodes; "
        f"cosine {middle:.2f} (10% below {low:.2f}, 10% above {high:.2f})"
    )
