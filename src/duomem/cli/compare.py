"""`duomem compare`: two runs, two arms or two episodes of the same games, as a table of differences or side by side.

In: two addresses (`RUN`, `RUN:ARM`, `RUN:EPISODE`). Out: words or JSON. The statistics are `duomem.versus`'s matter, episodes
and their first difference `duomem.browse`'s.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from duomem.cli import show, tables
from duomem.cli._sides import side_by_side
from duomem.cli.console import terminal
from duomem.cli.options import Debug, Json

if TYPE_CHECKING:
    from duomem.cli._address import Address
    from duomem.scores import Results
    from duomem.versus import Side, Versus

GAMES = 3
"""Games of each kind that are named."""


def add_to(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    first: Annotated[str, typer.Argument(help="RUN, RUN:ARM or RUN:EPISODE.", metavar="A")],
    second: Annotated[str, typer.Argument(help="What to compare it with; an ARM or EPISODE alone is of A's run.", metavar="B")],
    whole: Annotated[bool, typer.Option("--all", help="Of two episodes, the steps before the first difference too.")] = False,
    full: show.Full = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two runs or arms on the same games, with the paired interval, or lay two episodes side by side.

    Two episodes are aligned at the first step where they differ; an episode and an arm are the same game in that arm. With two
    runs every arm of both is compared, and the settings that differ are shown.

    Examples:

      duomem compare runs/mine:memory none

      duomem compare runs/mine runs/other

      duomem compare runs/mine:both runs/other:both --json

      duomem compare runs/mine:17 none

      duomem compare runs/mine:17 203 --all
    """
    from duomem.cli._address import address
    from duomem.errors import UsageError

    one = address(first)
    two = address(second, one)
    if one.is_episode:
        return _episodes(one, two if two.is_episode else _same_game(one, two), whole, full)
    if two.is_episode:
        raise UsageError(f"{second} is an episode and {first} is not. Name the episode first: duomem compare {second} ARM")
    arms = (one.what or two.what, two.what or one.what)
    _runs(one, two) if not any(arms) else _arms(one, two, arms)


# ------------------------------------------------------------------------------------------------------------ two episodes


def _same_game(one: Address, two: Address) -> Address:
    """The episode in which the arm of `two` played the game of `one`. Raises `UsageError` where there is none."""
    from duomem import browse
    from duomem.cli._address import Address
    from duomem.errors import UsageError

    row = browse.episode(one.run, one.what).row
    arm = two.what or row.arm
    found = browse.episodes(two.run, browse.Filters(arm=arm, split=row.split, task=row.task), limit=50).rows
    found = tuple(each for each in found if two.run.root != one.run.root or each.ref != row.ref)
    if not found:
        raise UsageError(f"{two.run.root} has no other episode of {row.task} in the arm {arm!r}.")
    return Address(two.run, next((each for each in found if each.seed == row.seed), found[0]).ref)


def _episodes(one: Address, two: Address, whole: bool, full: bool) -> None:
    from duomem import browse
    from duomem.types import dump

    limit = show.WHOLE if full or terminal.json else show.SHORT
    found = browse.compare(one.run, one.what, two.what, two.run, limit)
    terminal.result(json.loads(dump(found)) if terminal.json else {}, side_by_side((str(one), str(two)), found, whole))


# ------------------------------------------------------------------------------------------------------------ runs and arms


def _results(where: Address) -> Results:
    from duomem.scores import Results

    return Results.read(where.run.folder.results)


def _arms(one: Address, two: Address, arms: tuple[str, str]) -> None:
    from duomem.types import dump
    from duomem.versus import versus

    found = versus(_results(one), arms[0], _results(two), arms[1])
    names = _names(one, two, arms)
    data = {"first": names[0], "second": names[1], "versus": json.loads(dump(found)), "settings": _settings(one, two)}
    terminal.result(data, [*_differences(names, found), *_games(one, two, found, arms), *_settings_shown(one, two)])


def _names(one: Address, two: Address, arms: tuple[str, str]) -> tuple[str, str]:
    if one.run.root == two.run.root:
        return arms
    return f"{one.run.root}:{arms[0]}", f"{two.run.root}:{arms[1]}"


def _differences(names: tuple[str, str], found: Versus) -> list[Any]:
    pair, title = found.pair, tables.cell(f"{names[0]} against {names[1]}", 400, "bold")
    p = f"{pair.mcnemar_p:.3f}" if pair.mcnemar_p >= 0.001 else "< 0.001"
    words = f"{pair.points()}, paired over {pair.n} games and {pair.seeds} seeds; McNemar p {p}; "
    words += f"better on {pair.wins} games, worse on {pair.losses}."
    words += f" {found.left_out} games were played by one side only." if found.left_out else ""
    rows = [(name, a, b, difference) for name, a, b, difference in _means(found.first, found.second)]
    kinds = [
        (
            each.kind,
            each.games,
            *(f"{100 * share:.1f}" for share in (each.first, each.second)),
            _points(each.first - each.second),
        )
        for each in found.kinds
    ]
    return [
        title,
        Text(words),
        Text(),
        tables.table(("per episode", names[0], names[1], "difference"), rows),
        Text(),
        tables.table(("games won, %, by task type", "games", names[0], names[1], "points"), kinds),
    ]


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _means(first: Side, second: Side) -> list[tuple[str, str, str, str]]:
    figures = (
        ("games won, %", 100 * first.success, 100 * second.success, 1),
        ("steps", first.steps, second.steps, 1),
        ("steps without effect, %", 100 * first.invalid, 100 * second.invalid, 1),
        ("prompt tokens", first.usage.prompt, second.usage.prompt, 0),
        ("of them cached", first.usage.cached, second.usage.cached, 0),
        ("completion tokens", first.usage.completion, second.usage.completion, 0),
        ("memories", first.memories, second.memories, 1),
        ("seconds", first.seconds, second.seconds, 2),
    )
    return [(name, f"{a:,.{n}f}", f"{b:,.{n}f}", f"{a - b:+,.{n}f}") for name, a, b, n in figures]


def _games(one: Address, two: Address, found: Versus, arms: tuple[str, str]) -> list[Any]:
    """Games that make the difference, and how to look at the first one."""
    parts: list[Any] = []
    for games, words in ((found.gained, "the first does better"), (found.lost, "the second does better")):
        if games:
            more = [f"and {len(games) - GAMES} more"] if len(games) > GAMES else []
            parts += [
                Text(f"\nOn {len(games)} games {words}:"),
                tables.indented(tables.block("\n".join([*games[:GAMES], *more]))),
            ]
    for games in (found.gained, found.lost):
        if games:
            near = arms[1] if one.run.root == two.run.root else f"{two.run.root}:{arms[1]}"
            ref = _ref(one, arms[0], games[0])
            return [*parts, tables.cell(f"Side by side: duomem compare {one.run.root}:{ref} {near}", 1000)] if ref else parts
    return parts


def _ref(where: Address, arm: str, task: str) -> str:
    from duomem import browse

    found = browse.episodes(where.run, browse.Filters(arm=arm, task=task), limit=1).rows
    return found[0].ref if found else ""


def _runs(one: Address, two: Address) -> None:
    from duomem.errors import UsageError
    from duomem.types import dump
    from duomem.versus import versus

    first, second = _results(one), _results(two)
    shared = [arm.name for arm in first.arms if second.has(arm.name)]
    if not shared or one.run.root == two.run.root:
        raise UsageError(f"{one} and {two} have no arm to compare. Name two arms: duomem compare {one.run.root}:ARM ARM")
    found = {arm: versus(first, arm, second, arm) for arm in shared}
    rows = [
        (
            arm,
            f"{100 * each.first.success:.1f}",
            f"{100 * each.second.success:.1f}",
            f"{100 * each.pair.difference:+.1f}",
            f"{100 * each.pair.interval[0]:+.1f} to {100 * each.pair.interval[1]:+.1f}",
            f"{each.pair.wins} : {each.pair.losses}",
            f"{each.first.steps:.1f}",
            f"{each.second.steps:.1f}",
        )
        for arm, each in found.items()
    ]
    names = (str(one.run.root), str(two.run.root))
    head = ("arm", "A, %", "B, %", "points", "95% interval", "better : worse", "steps A", "steps B")
    some = next(iter(found.values()))
    note = f"A: {names[0]}. B: {names[1]}. Paired on the {some.pair.n} games of both; {some.left_out} were played by one only."
    table = tables.table(head, rows, f"{names[0]} against {names[1]}", note)
    data = {"first": names[0], "second": names[1], "arms": {arm: json.loads(dump(each)) for arm, each in found.items()}}
    terminal.result(data | {"settings": _settings(one, two)}, [table, *_settings_shown(one, two)])


def _settings(one: Address, two: Address) -> list[str]:
    return [line.plain for line in _settings_shown(one, two)[1:]]


def _settings_shown(one: Address, two: Address) -> list[Text]:
    """The settings that differ, as a diff of both configs."""
    if one.run.root == two.run.root:
        return []
    texts = [(where.run.root / "config.toml").read_text(encoding="utf-8", errors="replace") for where in (one, two)]
    lines = tables.diff(texts[0], texts[1], (str(one.run.root), str(two.run.root)))
    return [Text("\nSettings that differ" if lines else "\nThe settings are the same.", "bold"), *lines]
