"""The pages in a browser: nothing that data brings in runs, nothing overflows, all can be reached and read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.report.hostile import ATTACKS, MARK
from tests.report.runs import PAGES, Made

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

WIDTHS = (1280, 390)
OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"
FEWER = "most => { for (const one of [...document.querySelectorAll('article')].slice(most)) one.remove() }"
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "script", "header", "main", "footer", "section", "article"),
    *("nav", "form", "label", "input", "select", "option", "output", "table", "caption", "thead", "tbody", "tr", "th"),
    *("td", "h1", "h2", "h3", "h4", "p", "a", "ul", "li", "dl", "dt", "dd", "div", "span", "small", "strong", "bdi"),
    *("br", "mark", "details", "summary", "figure", "figcaption"),
    *("svg", "defs", "g", "path", "use", "text", "clippath", "rect"),
}
"""What the templates and the plots are made of."""


class View(Page):
    """A page that remembers what it said and asked for; only a name for the type checker."""

    heard: list[str]
    asked: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@contextmanager
def opened(browser: Browser, path: Path, width: int = 1280, **context: Any) -> Iterator[View]:
    """A page in a context of its own; `heard` holds its dialogs, messages and errors, `asked` its requests."""
    inside = browser.new_context(viewport={"width": width, "height": 900}, **context)
    page: Any = inside.new_page()
    page.heard, page.asked = [], []
    page.on("dialog", lambda dialog: (page.heard.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: page.heard.append(message.text))
    page.on("pageerror", lambda fault: page.heard.append(str(fault)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    try:
        yield page
    finally:
        inside.close()


@pytest.fixture(scope="module", params=PAGES)
def name(request: pytest.FixtureRequest) -> str:
    """Each page in its turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def view(name: str, browser: Browser, made: Made) -> Iterator[View]:
    """A page with all its details open."""
    with opened(browser, made.page(name)) as page:
        page.evaluate(OPEN_ALL)
        yield page


@pytest.fixture(scope="module")
def still(name: str, browser: Browser, made: Made) -> Iterator[View]:
    """A page whose script may not run."""
    with opened(browser, made.page(name), java_script_enabled=False) as page:
        yield page


class TestNothingThatDataBringsIn:
    def test_runs_speaks_or_asks_for_anything(self, name: str, view: View, made: Made) -> None:
        view.wait_for_timeout(50)
        assert (view.heard, view.asked) == ([], [made.page(name).as_uri()])
        assert view.evaluate("window.hacked") is None

    @pytest.mark.parametrize("hostile", ["attacked", "diff"])
    def test_runs_even_without_the_page_s_policy(self, hostile: str, browser: Browser, made: Made) -> None:
        with opened(browser, made.page(hostile), bypass_csp=True) as page:
            page.evaluate(OPEN_ALL)
            page.wait_for_timeout(50)
            assert (page.heard, page.asked) == ([], [made.page(hostile).as_uri()])
            assert page.evaluate("window.hacked") is None

    def test_becomes_an_element_an_attribute_or_an_address(self, still: View) -> None:
        elements = still.evaluate("[...new Set([...document.querySelectorAll('*')].map(e => e.localName))]")
        assert {one.lower() for one in elements} <= ELEMENTS
        attributes = "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes].map(a => a.name))"
        assert not [one for one in still.evaluate(attributes) if one.startswith(("on", "src", "action"))]
        addresses = still.evaluate("[...document.querySelectorAll('[href]')].map(e => e.getAttribute('href'))")
        assert all(one.startswith("#") for one in addresses)
        assert still.locator("script").count() == 1

    def test_is_lost_on_the_page(self, browser: Browser, made: Made) -> None:
        with opened(browser, made.page("attacked")) as page:
            shown = page.locator("main").inner_text()
        assert [attack for attack in ATTACKS if attack.isascii() and attack.isprintable() and attack not in shown] == []
        assert "\\u202egnirts\\u202c" in shown
        assert "\\u0000 \\u001b[2J" in shown

    def test_hides_in_the_title_of_the_window(self, browser: Browser, made: Made) -> None:
        with opened(browser, made.page("attacked")) as page:
            assert page.title().startswith("Audit of <img src=x onerror=window.hacked=1> \\u202egnp\\u202c \\u001b[31m")


class TestAnInjectedScript:
    """Whatever would get past the escapes: the page's policy lets no script run but its own."""

    def test_does_not_run_when_it_is_put_into_the_page(self, browser: Browser, made: Made) -> None:
        with opened(browser, made.page("single")) as page:
            page.evaluate(
                "mark => { document.body.innerHTML += `<img src=x onerror='${mark}'><svg onload='${mark}'></svg>`;"
                "const one = document.createElement('script'); one.textContent = mark; document.body.append(one); }",
                MARK,
            )
            page.wait_for_timeout(100)
            assert page.evaluate("window.hacked") is None
            assert all("Content Security Policy" in message for message in page.heard)
            assert page.heard

    @pytest.mark.parametrize("protected", [True, False])
    def test_does_not_run_when_it_is_written_into_the_file(
        self, protected: bool, browser: Browser, made: Made, tmp_path: Path
    ) -> None:
        changed = tmp_path / "changed.html"
        words = made.page("single").read_text(encoding="utf-8")
        changed.write_text(words.replace("</main>", f"<script>{MARK}</script></main>"), encoding="utf-8")
        with opened(browser, changed, bypass_csp=not protected) as page:
            assert page.evaluate("window.hacked") == (None if protected else 1)


OVERLAPPING = """() => ['body > *', 'main > *', 'section > *', 'article > *', 'tbody > tr', '.verdicts > *']
    .flatMap(which => [...document.querySelectorAll(which)])
    .filter(one => one.getClientRects().length && !one.matches('.skip')).filter(one => {
        let before = one.previousElementSibling;
        while (before && (!before.getClientRects().length || before.matches('.skip')))
            before = before.previousElementSibling;
        const [a, b] = [before?.getBoundingClientRect(), one.getBoundingClientRect()];
        return before && a.bottom > b.top + 0.5 && a.right > b.left + 0.5;
    }).map(one => one.outerHTML.slice(0, 80))"""
OUTSIDE = """() => [...document.querySelectorAll('body *')]
    .filter(one => !one.closest('.scroll, svg, .skip, select') && one.getClientRects().length)
    .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_window_and_nothing_lies_over_anything_else(width: int, view: View) -> None:
    view.set_viewport_size({"width": width, "height": 900})
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate(OVERLAPPING) == []
    assert view.evaluate(OUTSIDE) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_letters_with_towers_of_accents_do_not_paint_over_their_neighbours(
    width: int, browser: Browser, made: Made
) -> None:
    with opened(browser, made.page("attacked"), width) as page:
        page.evaluate(
            """() => {
                const examples = [...document.querySelectorAll('article')];
                const towers = examples.findIndex(one => one.querySelector('h3').textContent[1] === '\\u0336');
                for (const [place, one] of examples.entries()) if (place < towers - 1 || place > towers) one.remove();
            }"""
        )
        before, towers = page.locator("article").all()
        seen = before.screenshot()
        towers.evaluate("one => { one.style.visibility = 'hidden' }")
        assert before.screenshot() == seen


@pytest.mark.parametrize("which", ["calibrated", "scripts", "attacked", "diff"])
def test_axe_finds_nothing_serious_in_light_or_dark_wide_or_narrow(which: str, browser: Browser, made: Made) -> None:
    with opened(browser, made.page(which)) as page:
        page.evaluate(OPEN_ALL)
        page.evaluate(FEWER, 3)
        for width, scheme in product(WIDTHS, ("light", "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            serious = [one for one in found if one["impact"] in ("serious", "critical")]
            assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in serious] == []


class TestTheKeyboard:
    def test_skips_to_the_report_first(self, browser: Browser, made: Made) -> None:
        with opened(browser, made.page("single")) as page:
            page.keyboard.press("Tab")
            link = page.get_by_role("link", name="Skip to the report")
            assert link.evaluate("one => one === document.activeElement")
            box = link.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            page.keyboard.press("Enter")
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.closest('main') !== null")

    def test_reaches_everything_in_the_order_in_which_it_stands_and_is_shown_where_it_is(
        self, browser: Browser, made: Made
    ) -> None:
        with opened(browser, made.page("with evidence")) as page:
            page.evaluate(OPEN_ALL)
            page.evaluate(FEWER, 3)
            what = "a[href], summary, input, select, [tabindex='0']"
            reachable = page.locator(what).count()
            reached = []
            for _ in range(reachable):
                page.keyboard.press("Tab")
                state = "one => [[...document.querySelectorAll(what)].indexOf(one), getComputedStyle(one).outlineStyle]"
                reached.append(page.evaluate(f"what => ({state})(document.activeElement)", what))
            assert reached == [[place, "solid"] for place in range(reachable)]

    def test_finds_the_sections(self, view: View) -> None:
        missing = "[...document.querySelectorAll('a')].filter(one => !document.querySelector(one.hash))"
        assert view.evaluate(f"{missing}.map(one => one.hash)") == []


def shown(page: Page) -> tuple[int, str]:
    """How many examples are to be seen, and what is said of that."""
    return page.locator("article:visible").count(), page.get_by_role("status").inner_text()


def tab_to(page: Page, name: str) -> None:
    """Go on by the keyboard to a field of the finder."""
    for _ in range(100):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == name:
            return
    raise AssertionError(f"no {name} is reached")


class TestTheFinder:
    def test_shows_what_is_asked_for_by_the_keyboard_alone_and_says_how_many(
        self, browser: Browser, made: Made
    ) -> None:
        examples = made.report("two tiers")["examples"]
        whole = len(examples)
        with opened(browser, made.page("two tiers")) as page:
            assert shown(page) == (whole, f"{whole} of {whole} shown")
            tab_to(page, "words")
            page.keyboard.type("NUMBER 4?")
            found = sum("4?" in one["query"] for one in examples)
            assert shown(page) == (found, f"{found} of {whole} shown")
            page.keyboard.press("Enter")
            assert page.evaluate("location.search") == ""
            page.keyboard.press("Control+A")
            page.keyboard.press("Delete")
            tab_to(page, "kind")
            page.keyboard.press("ArrowDown")
            relabelled = sum(one["kind"] == "relabel" for one in examples)
            assert shown(page) == (relabelled, f"{relabelled} of {whole} shown")
            tab_to(page, "subset")
            page.keyboard.press("ArrowDown")
            nameless = sum(one["kind"] == "relabel" and one["subset"] == "" for one in examples)
            assert shown(page) == (nameless, f"{nameless} of {whole} shown")
            assert 0 < nameless < relabelled < whole

    def test_says_when_there_is_none(self, browser: Browser, made: Made) -> None:
        with opened(browser, made.page("single")) as page:
            page.get_by_role("searchbox").fill("nowhere")
            assert shown(page) == (0, "0 of 1 shown")

    @pytest.mark.parametrize("which", ["attacked", "diff", "scripts", "many subsets"])
    def test_tells_subsets_of_any_name_apart(self, which: str, browser: Browser, made: Made) -> None:
        subsets = [one["subset"] for one in made.report(which)["examples"]]
        with opened(browser, made.page(which)) as page:
            choice = page.locator("select[name=subset]")
            counts = []
            for place in range(1, choice.locator("option").count()):
                choice.select_option(index=place)
                counts.append(shown(page)[0])
        assert sorted(counts) == sorted(subsets.count(one) for one in set(subsets))

    def test_is_not_there_without_scripts_and_all_examples_are(self, name: str, still: View, made: Made) -> None:
        assert still.locator("article:visible").count() == len(made.report(name)["examples"])
        assert still.locator(".finder:visible").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_there_is_every_example_with_all_its_details_in_black_on_white(
    scheme: str, browser: Browser, made: Made
) -> None:
    with opened(browser, made.page("with evidence"), color_scheme=scheme) as page:
        page.get_by_role("searchbox").fill("nowhere")
        page.emulate_media(media="print", color_scheme=scheme)  # type: ignore[arg-type]
        assert page.locator("article:visible").count() == len(made.report("with evidence")["examples"])
        heights = (
            "[...document.querySelectorAll('details > :not(summary)')].map(one => one.getBoundingClientRect().height)"
        )
        assert min(page.evaluate(heights)) > 10
        cut = "[...document.querySelectorAll('.text')].filter(one => one.scrollHeight > one.clientHeight + 1).length"
        assert page.evaluate(cut) == 0
        colours = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
        assert page.locator("nav:visible, .finder:visible").count() == 0
