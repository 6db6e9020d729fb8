"""Whatever comes over the wire, it is a reply that can be kept or none; and whatever a reply says, a label stands only
where another reading of it finds the same.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from relabel.clients.errors import classify, complaint, retry_after, unsupported
from relabel.clients.target import Target
from relabel.clients.wire import reply_of
from relabel.fence import Fence
from relabel.forms import FORMS
from relabel.parsing import Abstained, Opinion, parse_answer, parse_grade, parse_ranking, parse_rlhn, parse_versus
from relabel.records import Passage, Reply, Token
from relabel.testing import rlhn_reply
from relabel.text import printable, well_formed, without_credentials
from tests.fuzz.mutations import mutated, quick, spoilt

TEXT = (
    "Tea’s steeped 3.5 minutes — ﬁve cafés, 1,000 İ's; 5½ cups <passage> &lt;b> 한국어는 कि "
    "👨\u200d👩\u200d👧 so\u00adft 東京です."
)
PASSAGE = Passage("d", "On Tea (2nd)", TEXT)
WORDS = [
    "<think>",
    "</think>",
    "<verdict>",
    "</verdict>",
    "<better>",
    "</worse>",
    "Doc (1)",
    "Doc (2)",
    "not ",
    "[",
    "]",
    ", ",
]
MARKS = [
    "```",
    "```json\n",
    "{",
    "}",
    '"',
    ":",
    "null",
    "1",
    "\\u0031",
    "\\ud83d",
    "</think>",
    "<think>",
    "{}",
    "\n",
    "[",
    "]",
    ",",
]


def edited(whole: str, pieces: Sequence[str]) -> st.SearchStrategy[str]:
    """The text with a few stretches changed."""
    return spoilt(whole.encode(), [piece.encode() for piece in pieces], 3).map(lambda b: b.decode(errors="replace"))


NUMBERS = st.lists(st.integers(0, 6), max_size=3)


@quick
@given(st.builds(rlhn_reply, NUMBERS, NUMBERS).flatmap(lambda whole: edited(whole, WORDS)), st.integers(1, 5))
def test_a_listwise_label_stands_only_where_the_verdict_names_the_passage(text: str, candidates: int) -> None:
    labels = parse_rlhn(Reply("ok", text, "stop"), candidates)
    if isinstance(labels, Abstained):
        return
    rest = re.split("</think>", text, maxsplit=1, flags=re.IGNORECASE)[-1]
    assert rest.strip().strip("`").rstrip().endswith("</verdict>")
    verdict = rest[rest.rindex("<verdict>") :]
    assert rest.lower().count("<verdict>") == 1
    for label in ("better", "worse"):
        (block,) = re.findall(f"<{label}>(.*?)</{label}>", verdict, re.DOTALL)
        named = [int(number) for number in re.findall(r"Doc \((\d+)\)", block)]
        assert sorted(named) == [number for number, found in enumerate(labels, 1) if found == label]
        assert not re.search(r"\d", re.sub(r"Doc \(\d+\)", "", block))
    assert len(labels) == candidates


@st.composite
def spans(draw: st.DrawFn) -> str | None:
    start, length = draw(st.integers(0, len(TEXT))), draw(st.integers(0, 40))
    span = draw(st.sampled_from([TEXT, Fence("<passage>")(TEXT), unicodedata.normalize("NFKD", TEXT), PASSAGE.title]))
    return draw(st.none() | edited(span[start : start + length], ["-", "'", " ", "\u200b", "&lt;", "5"]))


SAID: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "answer-snippet": st.fixed_dictionaries({"answer": spans()}),
    "graded": st.fixed_dictionaries({"grade": st.integers(-1, 4)}),
    "versus-positive": st.fixed_dictionaries(
        {
            "verdict": st.sampled_from(["better", "equal", "worse", "irrelevant"]),
            "evidence": spans().map(lambda s: s or ""),
        }
    ),
    "answer-ranking": st.fixed_dictionaries({"ranking": st.permutations([1, 2, 3]) | NUMBERS}),
}


@st.composite
def nearly_json(draw: st.DrawFn, form: str) -> str:
    """A sound reply of a form, in a fence or behind thinking, with a few places changed."""
    value = draw(SAID[form].flatmap(mutated))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    around = st.sampled_from(["{}", "```json\n{}\n```", "<think>x</think>\n{}", "x</reasoning> ```\n{}\n```", " {}\n"])
    return draw(st.just(well_formed(draw(around).replace("{}", text))).flatmap(lambda whole: edited(whole, MARKS)))


def read_again(text: str) -> dict[str, Any]:
    """The one object in a reply, with nothing but a fence or thinking about it."""
    text = text.strip()
    if not text.startswith(("{", "```")):
        text = re.split("</(?:think|thinking|thought|reasoning)>", text, maxsplit=1, flags=re.IGNORECASE)[-1].strip()
    before, after = text.partition("{")[0].strip(), text.rpartition("}")[2].strip()
    assert (before.lower(), after) in (("", ""), ("```", "```"), ("```json", "```"))
    pairs = json.loads(text[text.index("{") : text.rindex("}") + 1], object_pairs_hook=list)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def letters(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.replace("&lt;", "<").replace("&lsqb;", "["))
    return "".join(letter for letter in plain if letter.isalnum())


def assert_says(form: str, said: dict[str, Any], found: Opinion) -> None:
    assert said.keys() == set(FORMS[form].properties or ())
    assert found.label in FORMS[form].labels
    quoted = said.get("answer", said.get("evidence"))
    if form == "graded":
        assert (type(said["grade"]), str(said["grade"])) == (int, found.label)
    elif form == "versus-positive":
        assert said["verdict"] == found.label
    else:
        assert (quoted is None) == (found.label == "no_answer")
    if found.evidence is not None:
        place = PASSAGE.title if found.offset is None else TEXT[found.offset :]
        assert found.evidence in PASSAGE.title if found.offset is None else place.startswith(found.evidence)
        assert letters(found.evidence) == letters(quoted or "")


@quick
@given(st.data(), st.sampled_from(["answer-snippet", "graded", "versus-positive"]))
def test_a_pointwise_label_stands_only_where_the_json_says_it(data: st.DataObject, form: str) -> None:
    reply = Reply("ok", data.draw(nearly_json(form)), "stop")
    found = (
        parse_grade(reply) if form == "graded" else (parse_answer if "answer" in form else parse_versus)(reply, PASSAGE)
    )
    if isinstance(found, Opinion):
        assert_says(form, read_again(reply.text), found)


@quick
@given(nearly_json("answer-ranking"))
def test_a_ranking_stands_only_where_the_json_says_it(text: str) -> None:
    places = parse_ranking(Reply("ok", text, "stop"), 3, {2})
    if not isinstance(places, Abstained):
        ranking = read_again(text)["ranking"]
        assert [type(number) for number in ranking] == [int] * len(ranking)
        assert places == [ranking.index(number) if number in ranking else None for number in (1, 2, 3)]
        assert 2 in ranking


@quick
@given(st.data(), st.sampled_from(["answer-snippet", "graded", "versus-positive"]))
def test_tokens_that_were_certain_make_a_label_certain_wherever_they_part(data: st.DataObject, form: str) -> None:
    said = json.dumps({"grade": 2} if form == "graded" else {"answer": None} if form == "answer-snippet" else VERSUS)
    text = data.draw(st.sampled_from(["{}", "```json\n{}\n```", "x</think>{}", "\n {}"])).replace("{}", said)
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=12))})
    tokens = tuple(Token(text[a:b], 0.0, ((text[a:b], 0.0),)) for a, b in pairwise(cuts))
    reply = Reply("ok", text, "stop", logprobs=tokens)
    found = (
        parse_grade(reply) if form == "graded" else (parse_answer if "answer" in form else parse_versus)(reply, PASSAGE)
    )
    assert isinstance(found, Opinion)
    assert (found.score, found.outside) == (1.0, 0.0)


VERSUS = {"verdict": "irrelevant", "evidence": ""}
LOGPROBS = [
    {"token": '{"grade":', "logprob": -0.1, "top_logprobs": [{"token": "x", "logprob": -9999.0}]},
    {
        "token": " 3",
        "logprob": -0.5,
        "top_logprobs": [{"token": " 3", "logprob": -0.5}, {"token": " 0", "logprob": -1}],
    },
    {"token": "}", "logprob": 0.0, "bytes": [125], "top_logprobs": []},
]
COMPLETION = {
    "id": "x",
    "model": "small",
    "system_fingerprint": "fp",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": '{"grade": 3}', "refusal": None, "reasoning": "so"},
            "logprobs": {"content": LOGPROBS},
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
}


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@quick
@given(mutated(COMPLETION, most=3).map(as_bytes) | spoilt(as_bytes(COMPLETION)) | st.binary())
def test_a_response_is_a_reply_that_can_be_kept_or_none(content: bytes) -> None:
    reply = reply_of(content, 0.5)
    if reply is None:
        return
    assert orjson.loads(orjson.dumps(reply, default=list))["text"] == reply.text
    assert 0 <= reply.usage.cached <= reply.usage.prompt < 1 << 53
    assert reply.usage.completion >= 0
    grade = parse_grade(reply)
    assert isinstance(grade, Abstained) or grade.score is None or 0 <= grade.score <= 1
    for found in (parse_rlhn(reply, 3), parse_answer(reply, PASSAGE), parse_versus(reply, PASSAGE)):
        assert isinstance(found, Abstained)
    assert isinstance(parse_ranking(reply, 3, {1}), Abstained)


ERRORS = [
    {"error": {"message": "no", "type": "x", "code": "y", "param": "seed"}},
    [{"error": {"message": {"detail": [{"loc": ["body", "seed"], "msg": "no"}]}, "code": 400}}],
    {"object": "error", "message": "too long", "code": 400},
    {"detail": [{"loc": ["body", "seed", 1], "msg": "not permitted", "input": None}, {"loc": 5}]},
]


@quick
@given(st.integers(200, 599), st.sampled_from(ERRORS).flatmap(lambda error: mutated(error, most=3)).map(as_bytes))
def test_an_error_can_be_told_whatever_its_shape(status: int, content: bytes) -> None:
    found = complaint(status, {}, content, Target("", {}, ("sk-a-secret-key",)).masked)
    assert orjson.dumps([found.code, found.message])
    assert str(classify(found)).encode()
    unsupported(found, {"model": "m", "messages": [], "seed": 1, "logprobs": True})


@quick
@given(
    spoilt(b"Wed, 21 Oct 2015 07:28:00 GMT") | spoilt(b"0.5") | spoilt(b"-1e3"),
    st.sampled_from(["retry-after", "retry-after-ms"]),
)
def test_a_wait_is_within_an_hour_or_not_told(value: bytes, name: str) -> None:
    seconds = retry_after({name: value.decode("latin-1")})
    assert seconds is None or 0 <= seconds <= 3600


@quick
@given(st.text(st.characters()))
def test_any_text_can_be_kept_and_printed(text: str) -> None:
    assert well_formed(text).encode().decode() == well_formed(well_formed(text))
    assert printable(text).encode().decode() == printable(printable(text))
    assert without_credentials(without_credentials(text)) == without_credentials(text)
