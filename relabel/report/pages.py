"""report.json, report.html and report.md: the same numbers, written for programs, for people and for pull requests."""

from __future__ import annotations

import re
import unicodedata
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b, sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup, escape

from relabel.files import write_whole
from relabel.report.plots import plots
from relabel.text import printable

REPORT, PAGE, SUMMARY, CARD = "report.json", "report.html", "report.md", "README.md"
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: Path, report: Mapping[str, Any], title: str, card: str) -> None:
    """Write the pages, then report.json with their sizes: where the latter is, all the rest is, and whole."""
    texts = {
        PAGE: html("report.html", report=report, title=title, plots=plots(report)),
        SUMMARY: markdown("report.md", report=report, title=title),
        CARD: card,
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    write_json(folder / REPORT, {**report, "pages": {name: len(text.encode()) for name, text in texts.items()}})


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report with a digest, by which `read_json` knows that it is as it was written."""
    signed = {**report, "digest": _digest(report)}
    write_whole(path, orjson.dumps(signed, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report of a run, or None if there is none, or it is not as it was written."""
    found = read_json(folder / REPORT)
    return found if found is not None and "fingerprint" in found else None


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` has written, or None if that is not there."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    if not isinstance(found, dict):
        return None
    digest = found.pop("digest", None)
    return found if digest == _digest(found) else None


def _digest(report: Mapping[str, Any]) -> str:
    return blake2b(orjson.dumps(report, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def html(template: str, **values: Any) -> str:
    """A page with all that it needs inside. Nothing but its own script may run, and nothing is fetched."""
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(**values, style=Markup(style), script=Markup(script), script_digest=digest)
    )


def markdown(template: str, **values: Any) -> str:
    """A Markdown document; what comes from data is written so that it stands for itself."""
    text = _environment().get_template(template).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(("html",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (count, percent, number, usd, visible, printable, plain, cell, evidence, named)
    environment.filters |= {one.__name__: one for one in filters}
    return environment


def count(value: int) -> str:
    """A whole number with its thousands told apart."""
    return f"{value:,}"


def percent(value: float | None) -> str:
    """A share as a percentage, with as many places as it takes to tell it from none and from all."""
    if value is None:
        return "–"
    places = 1 if value in (0, 1) or 0.001 <= value <= 0.999 else 2 if 0.0001 <= value <= 0.9999 else 4
    return f"{100 * value:.{0 if value in (0, 1) else places}f} %"


def number(value: float | None, places: int = 3) -> str:
    """A number with so many places."""
    return "–" if value is None else f"{value:.{places}f}"


def usd(value: float | None) -> str:
    """US dollars, to the cent or, where that is too coarse, to two digits that say something."""
    if value is None:
        return "unpriced"
    sign, amount = "-" if value < 0 else "", abs(value)
    if 0 < amount < 0.0001:
        return f"{sign}$0.0001 or less"
    return f"{sign}${amount:,.2f}" if amount >= 1 or not amount else f"{sign}${amount:.4f}"


def visible(text: object) -> Markup:
    """Text for a page, with characters that would hide or reorder it shown as escapes."""
    parts = [escape(part) for part in _STRANGE.split(str(text))]
    strange = [Markup('<span class="strange">\\u{:04x}</span>').format(ord(one)) for one in _STRANGE.findall(str(text))]
    return Markup("").join(one for pair in zip_longest(parts, strange, fillvalue=Markup("")) for one in pair)


_STRANGE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u2028-\\u202e\\u2060-\\u206f\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb"
    "\\U000e0000-\\U000e007f]"
)
"""Control characters, and those that turn round or hide what follows. Marks of direction and joiners (U+200C to U+200F)
are part of how many languages are written.
"""


def plain(text: object) -> str:
    """Text in one line of Markdown, where none of its characters means anything."""
    line = " ".join("".join(f"\\u{ord(c):04x}" if _hidden(c) else c for c in str(text)).split())
    return re.sub(r"[\\`*_\[\]<>|~&@$]|:(?=//)|(?<=www)\.", r"\\\g<0>", line)


def cell(text: object) -> str:
    """A name for a cell of a table."""
    return plain(text) or "(none)"


def named(text: str) -> Markup:
    """A name for a page; an empty one is said to be so, and a very long one is cut."""
    cut = f"{text[:_LONGEST_NAME]}…" if len(text) > _LONGEST_NAME else text
    return visible(cut) if text else Markup("(none)")


_LONGEST_NAME = 160


def evidence(passage: Mapping[str, Any]) -> Markup:
    """A passage's text with its evidence marked."""
    text, place = passage["text"], passage["evidence"]
    if place is None:
        return visible(text)
    start, end = place
    return Markup("{}<mark>{}</mark>{}").format(visible(text[:start]), visible(text[start:end]), visible(text[end:]))


def _hidden(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
