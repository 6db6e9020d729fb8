"""The report's plots, drawn by matplotlib as SVG whose colours are the page's: they follow light and dark."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from relabel.text import printable

_COLOURS = {
    "text": "#010101",
    "line": "#020202",
    "relabel": "#030303",
    "drop": "#040404",
    "keep": "#050505",
    "accent": "#060606",
    "soft": "#070707",
}
"""Stand-ins, which become `var(--plot-…)` in the page."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "relabel",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["text"],
    "xtick.color": _COLOURS["line"],
    "ytick.color": _COLOURS["line"],
    "xtick.labelcolor": _COLOURS["text"],
    "ytick.labelcolor": _COLOURS["text"],
    "text.color": _COLOURS["text"],
    "text.parse_math": False,
    "axes.grid": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_WIDTH = 4.6
"""Inches: at 72 to the inch no wider than a phone, so that letters keep their size."""

_NAME, _TAIL = 22, 8
"""Letters of a name at most, and those that stay of its end if it is longer."""


def plots(report: Mapping[str, Any]) -> dict[str, str]:
    """All plots of a report by name; those for which it has nothing to show are left out."""
    found: dict[str, str] = {}
    changes = report["changes"]["subsets"]
    judged = {name: one for name, one in changes.items() if one["false_negatives_among"]}
    if len(judged) > 1:
        found["subsets"] = _draw("subsets", partial(_intervals, judged), 0.6 + 0.24 * len(judged))
    for name, draw in (("position", _positions), ("score", _scores)):
        rows = [one for one in report[f"by_{name}"] if one["false_negatives_among"]]
        if len(rows) > 1:
            found[f"{name}s"] = _draw(f"{name}s", partial(draw, rows))
    reached = [one for one in report["funnel"] if one["candidates"]]
    if reached:
        found["funnel"] = _draw("funnel", partial(_funnel, reached), 1.1 + 0.42 * len(reached))
    for one in report["calibrations"]:
        measured = one["measured"]
        found[f"reliability {one['tier']}"] = _draw(f"reliability {one['tier']}", partial(_reliability, measured))
        found[f"frontier {one['tier']}"] = _draw(f"frontier {one['tier']}", partial(_frontier, measured))
    return found


def _intervals(rows: Mapping[str, Mapping[str, Any]], axes: Any) -> None:
    ordered = sorted(rows.items(), key=lambda item: (item[1]["false_negatives_share"], item[0]))
    for place, (_, row) in enumerate(ordered):
        low, high = (100 * end for end in row["false_negatives_95"])
        axes.plot([low, high], [place, place], color=_COLOURS["accent"], linewidth=2, solid_capstyle="round")
        axes.plot([100 * row["false_negatives_share"]], [place], "o", color=_COLOURS["accent"], markersize=5)
    axes.set_yticks(range(len(ordered)), [_named(name or "(none)") for name, _ in ordered])
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel("false negatives, % of those decided", loc="right")


def _positions(rows: Sequence[Mapping[str, Any]], axes: Any) -> None:
    places = list(range(len(rows)))
    _rate(axes, places, rows)
    step = max(len(rows) // 8, 1)
    axes.set_xticks(places[::step], [row["positions"] for row in rows[::step]])
    axes.set_xlabel("place among the mined negatives")
    axes.set_ylabel("false negatives, %")


def _scores(rows: Sequence[Mapping[str, Any]], axes: Any) -> None:
    places = list(range(len(rows)))
    _rate(axes, places, rows)
    step = max(len(rows) // 4, 1)
    axes.set_xticks(places[::step], [f"{row['from']:.4g}" for row in rows[::step]])
    axes.set_xlabel("score of the mining from, in parts of like size")
    axes.set_ylabel("false negatives, %")


def _rate(axes: Any, places: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> None:
    low, high = ([100 * row["false_negatives_95"][end] for row in rows] for end in (0, 1))
    axes.fill_between(places, low, high, color=_COLOURS["soft"], linewidth=0)
    shares = [100 * row["false_negatives_share"] for row in rows]
    axes.plot(places, shares, "o-", color=_COLOURS["accent"], markersize=4, linewidth=1.6)
    axes.set_ylim(bottom=0)


def _funnel(rows: Sequence[Mapping[str, Any]], axes: Any) -> None:
    names = {"passed on": "soft", "relabel": "relabel", "drop": "drop", "keep": "keep"}
    for place, row in enumerate(reversed(rows)):
        start = 0
        for name, colour in names.items():
            count = row["passed_on"] if name == "passed on" else row["ended"][name]
            axes.barh(place, count, left=start, color=_COLOURS[colour], height=0.62)
            start += count
    axes.set_yticks(range(len(rows)), [_named(row["tier"]) for row in reversed(rows)])
    axes.xaxis.set_major_locator(_locator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("candidates")
    handles = [_patch(_COLOURS[colour], name) for name, colour in names.items()]
    axes.legend(handles=handles, ncols=4, loc="lower left", bbox_to_anchor=(-0.02, 1), handlelength=1, columnspacing=1)


def _reliability(measured: Mapping[str, Any], axes: Any) -> None:
    curve = measured["reliability"]
    axes.plot([0, 1], [0, 1], color=_COLOURS["line"], linewidth=1, linestyle="--")
    given, true = [row["probability"] for row in curve], [row["relevant"] for row in curve]
    axes.plot(given, true, "o-", color=_COLOURS["accent"], markersize=5, linewidth=1.6)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("P(false negative) that was given")
    axes.set_ylabel("share that people call relevant")


def _frontier(measured: Mapping[str, Any], axes: Any) -> None:
    rows = measured["frontier"]
    shares = [100 * row["share"] for row in rows]
    low, high = ([row["kappa_95"][end] for row in rows] for end in (0, 1))
    axes.fill_between(shares, low, high, color=_COLOURS["soft"], linewidth=0)
    axes.plot(shares, [row["kappa"] for row in rows], "o-", color=_COLOURS["accent"], markersize=4, label="calibrated")
    alone = measured["strong_only"]["kappa"]
    axes.axhline(alone, color=_COLOURS["line"], linewidth=1, linestyle="--", label="strong on everything")
    chosen = measured["chosen"]
    point = ([100 * chosen["share"]], [chosen["kappa"]])
    axes.plot(*point, "D", color=_COLOURS["relabel"], markersize=7, linestyle="none", label="chosen")
    axes.set_xlabel("candidates that go to the strong judge, %")
    axes.set_ylabel("Cohen's kappa with people")
    axes.legend(loc="lower right")


def _draw(name: str, draw: Callable[[Any], None], height: float = 2.6) -> str:
    """One plot as an SVG element without a size of its own but its ratio, hidden from screen readers: what it shows
    stands in a table beside it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font, which is not used, has not got
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw(axes)
        target = io.BytesIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_the_page(target.getvalue().decode(), name)


def _for_the_page(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], prefix), svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" class="plot" ', 1)


def _tag(tag: str, prefix: str) -> str:
    """A tag with the page's colours, and with ids of its plot's own."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", tag)
    for colour, stand_in in _COLOURS.items():
        tag = tag.replace(stand_in, f"var(--plot-{colour})")
    return tag


def _named(name: str) -> str:
    shown = printable(name).replace("\n", " ")
    widths = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in shown]
    if sum(widths) <= _NAME:
        return shown
    return f"{_fitting(shown, widths, _NAME - _TAIL - 1)}…{_fitting(shown[::-1], widths[::-1], _TAIL)[::-1]}"


def _fitting(text: str, widths: Sequence[int], room: int) -> str:
    return text[: sum(1 for end in accumulate(widths) if end <= room)]


def _locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, integer=True)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
