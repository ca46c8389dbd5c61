"""Writes the report of an evaluation: report.json, report.md and a self-contained report.html.

In: `Results`. Out: three files, the same bytes for the same results; no model, game or network is needed. The figures come from
`duomem.summary`, the tables and plots from `report_tables` and `report_plots`; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path

from duomem import report_tables as tables
from duomem.errors import MissingExtra
from duomem.report_tables import TITLES, Table, percent, span
from duomem.rundir import replace
from duomem.safetext import plain
from duomem.scores import Results, Shown
from duomem.summary import Summary, summarise


def write(results: Results, out: Path) -> Summary:
    """Write the three files into `out`. Raises `MissingExtra` where the page's libraries lack, after the other two."""
    summary = summarise(results)
    replace(out / "report.json", summary.to_json())
    replace(out / "report.md", markdown(results, summary))
    replace(out / "report.html", page(results, summary))
    return summary


def rewrite(source: Path, out: Path) -> Summary:
    """The report from a results.json. Raises `DataError` for a missing or damaged file."""
    return write(Results.read(source), out)


def headline(summary: Summary) -> str:
    """The arms and the decision as a few lines of plain text, for a terminal."""
    lines = [
        f"{TITLES[name]:>20}  {percent(arm.success):>6}  [{span(*arm.interval)}]  {arm.mean_steps:.1f} steps"
        for name, arm in summary.arms.items()
    ]
    return "\n".join([*lines, "", summary.decision.words, *(f"- {detail}" for detail in summary.decision.details)])


def markdown(results: Results, summary: Summary) -> str:
    """report.md: the decision and every table that is not empty."""
    decision = summary.decision
    parts = [f"# {title(summary)}", f"**{_escape(decision.words)}**"]
    parts.append("\n".join(f"- {_escape(detail)}" for detail in (*decision.details, f"Rule: {decision.rule}")))
    if not summary.complete:
        shown = [f"- {_escape(problem)}" for problem in summary.problems[:20]]
        parts.append("\n".join([f"## Incomplete: {len(summary.problems)} problems", "", *shown]))
    parts += [_markdown_table(table) for table in every_table(results, summary)]
    return "\n\n".join(parts) + "\n"


def every_table(results: Results, summary: Summary) -> list[Table]:
    """All tables in the order of report.md, without the empty ones."""
    found = [
        tables.arms(summary),
        tables.pairs(summary),
        tables.groups(summary, "by_type"),
        tables.groups(summary, "by_room"),
        tables.seeds(summary),
        tables.steps(results, marks(results)),
        tables.stops(summary),
        tables.costs(summary),
        tables.losses(results),
        tables.conditions(summary),
        tables.provenance(summary),
    ]
    return [table for table in found if table.rows]


def marks(results: Results) -> Sequence[int]:
    """Numbers of steps that the table of steps shows: every fifth, and the last."""
    longest = max((score.steps for score in results.scores), default=0)
    return [*range(5, longest, 5), longest]


def title(summary: Summary) -> str:
    return f"{summary.games} games of {summary.split}, {len(summary.arms)} arms"


def page(results: Results, summary: Summary) -> str:
    """report.html. All text is escaped, made harmless and cut where it is very long; nothing is loaded from anywhere.

    Raises `MissingExtra`.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("jinja2", "report") from error
    from duomem.report_plots import plots

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    template = environment.from_string(_asset("report.html.j2"))
    return template.render(
        style=_asset("tokens.css") + _asset("report.css"),
        title=title(summary),
        summary=summary,
        plots=plots(results, summary),
        tables={
            "arms": tables.arms(summary),
            "pairs": tables.pairs(summary),
            "types": tables.groups(summary, "by_type"),
            "rooms": tables.groups(summary, "by_room"),
            "seeds": tables.seeds(summary),
            "steps": tables.steps(results, marks(results)),
            "stops": tables.stops(summary),
            "costs": tables.costs(summary),
            "loss": tables.losses(results),
            "conditions": tables.conditions(summary),
            "provenance": tables.provenance(summary),
        },
        games=side_by_side(results.shown),
        titles=TITLES,
        best=_best(summary),
    )


def side_by_side(shown: Sequence[Shown]) -> list[tuple[str, str, list[Shown]]]:
    """Goal, task id and the arms' episodes of each game to read."""
    grouped = groupby(shown, key=lambda entry: entry.trajectory.task.id)
    games = [(task, list(entries)) for task, entries in grouped]
    return [(next((e.trajectory.goal for e in entries if e.trajectory.goal), task), task, entries) for task, entries in games]


def _best(summary: Summary) -> float:
    return max((arm.success or 0.0 for arm in summary.arms.values()), default=0.0)


def _shown(value: object) -> object:
    """What an expression of the template gives: text of recorded episodes made harmless, the report's own markup as it is."""
    return plain(value) if type(value) is str else value


def _asset(name: str) -> str:
    return resources.files("duomem").joinpath("report_assets", name).read_text(encoding="utf-8")


def _markdown_table(table: Table) -> str:
    lines = [_row(table.head), _row(("---", *("---:" for _ in table.head[1:])) if len(table.head) > 2 else ("---", "---"))]
    lines += [_row([_escape(cell) for cell in row]) for row in table.rows]
    note = f"\n\n{_escape(table.note)}" if table.note else ""
    return f"## {table.title}\n\n" + "\n".join(lines) + note


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    """Text that markdown, any HTML in it and a terminal leave alone."""
    for sign, safe in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        text = text.replace(sign, safe)
    return plain(" ".join(text.split()))
