"""The plots of a report as inline SVG that fits dark and light pages and prints in grey.

In: a `Summary` and `Results`. Out: SVG text without ids that clash, dates or addresses; equal input gives equal bytes. Colours
are those of report_assets/tokens.css, and each arm has its own marker. Needs matplotlib (extra `report`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

from duomem.errors import MissingExtra
from duomem.report_tables import TITLES, won_within
from duomem.safetext import line
from duomem.scores import Results
from duomem.summary import Summary

STYLES = {
    "none": ("#8c8c8c", "o"),
    "format_only": ("#cc79a7", "v"),
    "memory": ("#0072b2", "s"),
    "adapter": ("#e69f00", "^"),
    "both": ("#009e73", "D"),
    "decoy": ("#d55e00", "X"),
    "teacher": ("#56b4e9", "P"),
    "no_same_room": ("#5d5fbb", "<"),
    "both_no_same_room": ("#2d2f8b", "h"),
    "both_decoy": ("#a06a3a", ">"),
}
"""Marker of each arm, and the colour that stands for its token until the SVG is done."""
MAIN = ("none", "memory", "adapter", "both")
_INK = "#010203"
"""Stands for the page's text colour until the SVG is done."""
_WIDTH = 7.6


def plots(results: Results, summary: Summary) -> dict[str, str]:
    """SVG by name; a plot without data is left out. Raises `MissingExtra`."""
    drawn = {
        "arms": _svg("arms", "Success of each arm with its interval", 0.42 * len(summary.arms) + 0.9, _arms, summary),
        "types": _svg("types", "Success by task type", 0.62 * len(_kinds(summary)) + 1.3, _types, summary),
        "steps": _svg("steps", "Share of games won within so many steps", 3.3, _steps, results),
    }
    if summary.pairs:
        height = 0.36 * len(summary.pairs) + 0.9
        drawn["pairs"] = _svg("pairs", "Paired differences with their intervals", height, _pairs, summary)
    if results.facts.losses:
        drawn["loss"] = _svg("loss", "Training loss by step", 2.6, _loss, results)
    return drawn


def _svg(name: str, title: str, height: float, draw: Callable[[Any, Any], None], data: Any) -> str:
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "report") from error
    style: dict[Any, Any] = {
        **matplotlib.rcParamsDefault,
        "backend": "svg",
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots(), data)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return _inline(buffer.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> str:
    """The SVG element alone: no header, no metadata, no namespaces, ids of its own, the page's colour and width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg.split(">", 1)[0]) + ">" + svg.split(">", 1)[1]
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = svg.replace(_INK, "currentColor")
    for arm, (colour, _) in STYLES.items():
        svg = svg.replace(colour, f"var(--arm-{arm})")  # the page's token: light, dark, print
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1).strip()


def _percent_axis(axis: Any, label: str) -> None:
    axis.set_xlim(-2, 102)
    axis.set_xlabel(label)
    _grid(axis, "x")


def _grid(axis: Any, which: str) -> None:
    axis.grid(axis=which, color=_INK, alpha=0.15, linewidth=0.6)
    axis.set_axisbelow(True)


def _rows(axis: Any, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _arms(axis: Any, summary: Summary) -> None:
    for row, (name, arm) in enumerate(summary.arms.items()):
        colour, marker = STYLES[name]
        if arm.success is None:
            continue
        low, high = arm.interval
        axis.plot([100 * low, 100 * high], [row, row], color=colour, linewidth=2.4, solid_capstyle="butt")
        axis.plot([100 * arm.success], [row], marker, color=colour, markersize=8)
        right = 100 * high + 1.5
        axis.text(right if right < 92 else 100 * low - 1.5, row, f"{100 * arm.success:.1f}",
                  va="center", ha="left" if right < 92 else "right")  # fmt: skip
    _rows(axis, [TITLES[name] for name in summary.arms])
    _percent_axis(axis, "games won, %")


def _pairs(axis: Any, summary: Summary) -> None:
    for row, pair in enumerate(summary.pairs.values()):
        low, high = (100 * bound for bound in pair.interval)
        filled = not pair.includes_zero
        axis.plot([low, high], [row, row], color="#0072b2", linewidth=2, alpha=1 if filled else 0.55)
        axis.plot([100 * pair.difference], [row], "o", color="#0072b2", markersize=7, fillstyle="full" if filled else "none")
    axis.axvline(0, color=_INK, linewidth=0.9)
    _rows(axis, [" − ".join(TITLES[part] for part in name.split("-")) for name in summary.pairs])
    axis.set_xlabel("difference in points; hollow: the interval includes 0")
    _grid(axis, "x")


def _label(name: str) -> str:
    """An environment's own word: no stand-ins for control characters, which the font lacks, no dollar that begins a formula."""
    return re.sub("[\u2400-\u2421]", "?", line(name.replace("_", " "), 40)).replace("$", r"\$")


def _kinds(summary: Summary) -> list[str]:
    return sorted({kind for arm in summary.arms.values() for kind in arm.by_type})


def _types(axis: Any, summary: Summary) -> None:
    kinds, shown = _kinds(summary), [name for name in MAIN if name in summary.arms]
    for number, name in enumerate(shown):
        colour, marker = STYLES[name]
        for row, kind in enumerate(kinds):
            group = summary.arms[name].by_type.get(kind)
            if group is None:
                continue
            height = row + 0.17 * (number - (len(shown) - 1) / 2)
            axis.plot([100 * bound for bound in group.wilson], [height, height], color=colour, linewidth=1.4, alpha=0.7)
            label = TITLES[name] if row == 0 else None
            axis.plot([100 * group.success], [height], marker, color=colour, markersize=6, label=label)
    sizes = {kind: max(arm.by_type[kind].n for arm in summary.arms.values() if kind in arm.by_type) for kind in kinds}
    _rows(axis, [f"{_label(kind)} ({sizes[kind]})" for kind in kinds])
    for row in range(1, len(kinds)):
        axis.axhline(row - 0.5, color=_INK, alpha=0.15, linewidth=0.6)
    _percent_axis(axis, "games won, %, with Wilson's interval; in brackets: games")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(shown))


def _steps(axis: Any, results: Results) -> None:
    longest = max((score.steps for score in results.scores), default=1)
    for arm in results.arms:
        colour, marker = STYLES[arm.name]
        shares = [100 * won_within(results, arm.name, limit) for limit in range(longest + 1)]
        every = max(1, longest // 8)
        axis.step(range(longest + 1), shares, where="post", color=colour, linewidth=1.7, marker=marker, markersize=4.5,
                  markevery=every, label=TITLES[arm.name])  # fmt: skip
    axis.set_xlim(0, longest)
    axis.set_ylim(-2, 102)
    axis.set_xlabel("steps")
    axis.set_ylabel("games won so far, %")
    _grid(axis, "both")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _loss(axis: Any, results: Results) -> None:
    found = results.facts.losses
    axis.plot(range(1, len(found) + 1), found, color="#0072b2", linewidth=1.6)
    axis.set_xlabel("optimiser step")
    axis.set_ylabel("training loss")
    axis.set_ylim(bottom=0)
    _grid(axis, "both")
