"""Texts that would break out of a page, a terminal or their place, and the judge that says them, too."""

from __future__ import annotations

import re
from typing import Any

from relabel.testing import Answer
from relabel.testing.replies import json_reply

MARK = "window.hacked=(window.hacked||0)+1"
"""What each attack does if it gets to run."""

AWAY = "https://away.invalid"

ATTACKS = (
    f"<script>{MARK};alert(1)</script>",
    f'<img src=x onerror="{MARK}">',
    f"</script><script>{MARK}</script>",
    f"</style></title><script>{MARK}</script>",
    f'--><svg onload="{MARK}"><script>{MARK}</script></svg>',
    f'<a href="javascript:{MARK}" id="trap">here</a> javascript:{MARK}',
    f'"><iframe srcdoc="<script>parent.{MARK}</script>"></iframe>',
    f"' autofocus onfocus='{MARK}' x='",
    f'" autofocus onfocus="{MARK}" data-kind="',
    f'<base href="{AWAY}"><link rel=stylesheet href="{AWAY}/x.css"><img src="{AWAY}/x.png"><script src="{AWAY}">',
    f'<meta http-equiv="refresh" content="0;url={AWAY}"><form action="{AWAY}"><button>go</button></form>',
    "<style>* { display: none !important }</style><plaintext><textarea><!--",
    "{{7*7}} {% raw %} ${7*7} #{7*7} <%= 7*7 %> {{ ''.__class__ }}",
    f"**b** [l](javascript:{MARK}) | # h `c` &lt;i&gt; &#60;img src=x onerror={MARK}&#62; &amp;amp; &nbsp;",
    "\u202egnirts\u202c \u202aa\u202bb\u202dc\u202c \u2066d\u2067e\u2068f\u2069 \u061c end",
    "\x00 \x1b[2J\x1b[31m \x1b]0;owned\x07 \x9b1m \x7f \x08\x08 \r over \x85 \u2028 \u2029",
    "W" * 10_000,
    "".join(f"{letter}{'̶̴̵̸̷̡̢̧̨̛̖̗̘̙̀́̂̃̄̅̆̇̈̉̊̋̌̍' * 3}" for letter in "zalgo comes"),
    "zero\u200bwidth\u200c\u200d\u2060\ufeff\u00ad and \U000e0041\U000e0042 tags",
    "𝕱𝖆𝖓𝖈𝖞 👩‍👩‍👧‍👦 ﷽ ꧅ ㋿ ﷺ",
)
"""Each stands in every field of one instance."""

NAME = f"<img src=x onerror={MARK.split('(')[0]}1> \u202egnp\u202c \x1b[31m\x07 &amp; 'a\" {{{{7*7}}}}"
"""A name that a file system takes."""

_PASSAGE = re.compile(r"<passage>\n(.*?)\n</passage>", re.DOTALL)
_PLACE = re.compile(r"place (\d+) of (\d+)")
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


def records() -> list[dict[str, Any]]:
    """An instance for each attack, which stands in its id, query, subset, and in docid, title and text of each passage;
    some of the texts hold all the attacks.
    """
    return [
        {
            "query_id": f"{attack} {n}",
            "query": f"{attack} who? {attack[:300]}",
            "subset": attack[:2000],
            "positive_passages": [_passage(attack, n, 0)],
            "negative_passages": [{**_passage(attack, n, place), "score": 1 / place} for place in range(1, 7)],
        }
        for n, attack in enumerate(ATTACKS)
    ]


def _passage(attack: str, n: int, place: int) -> dict[str, Any]:
    more = " ".join(one[:200] for one in ATTACKS) if place == 1 else ""
    return {"docid": f"{attack}{place}", "title": attack[:500], "text": f"{attack} place {place} of {n} {more}"}


def labels() -> list[dict[str, Any]]:
    """What people say of the first three candidates of each instance."""
    return [
        {"query_id": f"{attack} {n}", "docid": f"{attack}{place}", "grade": place % 2}
        for n, attack in enumerate(ATTACKS)
        for place in (1, 2, 3)
    ]


def judge(body: dict[str, Any]) -> Answer:
    """Says one thing of each place, with an attack in whatever part of the response it can stand."""
    prompt = body["messages"][-1]["content"]
    text = _PASSAGE.findall(prompt)[-1]
    place, n = map(int, _PLACE.findall(text)[-1])
    attack = ATTACKS[n]
    beside: dict[str, Any] = {"message": {"reasoning_content": f"{attack} I think."}, "extra": {"model": attack[:100]}}
    if "shortest span that serves" in body["messages"][0]["content"]:
        if place == 0:
            return Answer(json_reply(answer=text if n % 2 else None), **beside)
        if place == 5:
            return Answer(json_reply(answer=None), **beside)
        return Answer(f"{attack} I cannot say. {attack[::-1]}" if place == 6 else json_reply(answer=text), **beside)
    if place == 4:
        return Answer(status=400, body={"error": {"message": f"{attack} refused", "code": "content_filter"}})
    if place == 3:
        return Answer(json_reply(verdict=attack, evidence=attack), **beside)
    return Answer(json_reply(verdict="better" if place == 1 else "worse", evidence=text), **beside)


def milder(body: dict[str, Any]) -> Answer:
    """The same judge, to whom what is better is worse."""
    answer = judge(body)
    return Answer(**{**{name: getattr(answer, name) for name in answer.__slots__}, "text": _milder(answer.text)})


def _milder(text: str) -> str:
    return text.replace('"verdict":"better"', '"verdict":"worse"')
