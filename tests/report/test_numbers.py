"""Every number on a page stands in the JSON beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from relabel.report.pages import count, number, percent, usd
from tests.report.runs import STATES, Made

OURS = ("(95 %)", "95 % interval", "1,000", "arXiv 2505.16967", "2.35 times", "by 1.0 points", "nDCG@10", "F1")
"""Numbers in the words of the templates."""

_NUMBER = re.compile(r"-?\$?\d+(?:,\d{3})*(?:\.\d+)?(?: %)?")
_UNREAD = ("style", "script", "svg", "title")


class Words(HTMLParser):
    """The text of a page, without plots and without the escapes of letters that are not shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._within: list[str] = []
        self._parts: list[str] = []
        self.feed(page)
        self.text = "".join(self._parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._within or tag in _UNREAD or ("class", "strange") in attrs:
            self._within.append(tag)
        elif tag not in ("mark", "bdi"):
            self._parts.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._parts.append("" if self._within else "\n")

    def handle_endtag(self, tag: str) -> None:
        if not self._within:
            self._parts.append("" if tag in ("mark", "bdi") else "\n")
        elif self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        self._parts.append("\v" if self._within else data)


def leaves(value: Any) -> Iterator[Any]:
    """All keys and values of a report that hold nothing else."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def formatted(value: float) -> set[str]:
    """How a page may write a number."""
    shown = {usd(value), f"{value:.5g}", f"{value:.0f}", f"{value:g}", *(number(value, places) for places in (2, 3, 4))}
    return (
        shown | ({percent(value)} if 0 <= value <= 1 else set()) | ({count(value)} if isinstance(value, int) else set())
    )


def strange_numbers(page: str, report: dict[str, Any], title: str) -> list[str]:
    """The numbers on a page that are nowhere in its report."""
    values = list(leaves(report))
    numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
    known = {"0"}.union(*(formatted(one) for one in numbers))
    for one in [title, *(one for one in values if isinstance(one, str))]:
        known.update(_NUMBER.findall(one), re.findall(r"\d+", one))
    text = Words(page).text
    for words in OURS:
        text = text.replace(words, " ")
    return [one for one in _NUMBER.findall(text) if one not in known]


@pytest.mark.parametrize("name", [*STATES, "diff"])
def test_every_number_of_the_page_is_in_the_report(name: str, made: Made) -> None:
    page = made.page(name).read_text(encoding="utf-8")
    assert strange_numbers(page, made.report(name), made.page(name).parent.name) == []


@pytest.mark.parametrize("wrong", ["94,039", "4,711", "33.7 %", "0.4711", "$0.1234"])
def test_a_number_that_is_not_is_noticed(wrong: str, made: Made) -> None:
    page = made.page("two tiers").read_text(encoding="utf-8")
    changed = page.replace("</main>", f"<p>In all {wrong} of them.</p></main>")
    assert strange_numbers(changed, made.report("two tiers"), "two tiers") == [wrong]
