"""What a server makes of structured replies and probabilities shows in its first replies, and is said once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from relabel.clients.dialect import Dialect
from relabel.prompts import load_prompt
from relabel.records import Reply, Request, Token
from relabel.testing import Answer, Handler, ReplyServer, completion
from tests.clients.shared import error, replies, reply

GOOD = '{"grade": 2}'
PROSE = "I would give it a 2."


def graded(text: str = "?", **sampling: Any) -> Request:
    return Request("m", ({"role": "user", "content": text},), sampling, load_prompt("graded").schema)


def asked(handler: Handler, count: int = 12, **sampling: Any) -> tuple[list[Reply], list[str], ReplyServer]:
    """So many replies, what was said of the server, and the server."""
    told: list[str] = []
    with ReplyServer(handler, keep=True) as server:
        found = replies(server.url, [graded(str(n), **sampling) for n in range(count)], say=told.append)
    return found, told, server


def without_structure(fault: Answer) -> Handler:
    return lambda body: fault if "response_format" in body else GOOD


def test_a_dialect_is_known_by_its_name() -> None:
    learnt = Dialect()
    for name in ("max_tokens", "logprobs", "temperature"):
        assert learnt.learn(name)
    again = Dialect.named(f"{learnt.name} ~response_format")
    assert again.name == learnt.name == "max_tokens=max_completion_tokens -logprobs -temperature -top_logprobs"
    asked = graded(max_tokens=9, temperature=0.5, logprobs=True)
    assert again.body(asked) == learnt.body(asked)
    assert Dialect.named("").body(asked) == Dialect().body(asked)


def test_posts_the_schema_as_the_openai_package_does() -> None:
    schema = load_prompt("graded").schema

    async def theirs(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as package:
            asked: dict[str, Any] = {
                "model": "m",
                "messages": [{"role": "user", "content": "?"}],
                "response_format": {"type": "json_schema", "json_schema": schema},
                "logprobs": True,
                "top_logprobs": 5,
            }
            await package.chat.completions.create(**asked)

    with ReplyServer(lambda _: GOOD, keep=True) as server:
        reply(server.url, graded(logprobs=True, top_logprobs=5))
        asyncio.run(theirs(server.url))
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize(
    "fault",
    [
        error(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."),
        error(400, "'response_format.type' must be 'text'", param="response_format.type"),
        error(422, "This response_format type is unavailable now"),
        error(400, "json_schema is not available for this engine"),
        error(500, "unexpected keyword"),
        error(501, "not implemented"),
    ],
)
def test_a_server_that_refuses_structured_replies_is_asked_without_and_that_is_said_once(fault: Answer) -> None:
    found, told, server = asked(without_structure(fault))
    assert {one.text for one in found} == {GOOD}
    assert {one.dialect for one in found} == {"-response_format"}
    assert len(told) == 1
    assert "response_format" in told[0]
    assert server.asked.total() <= 12 + 12
    assert sum("response_format" in body for body in server.bodies) < 12 or fault.status >= 500


def picky(fault: Answer, *parameters: str) -> Handler:
    def handler(body: dict[str, Any]) -> str | Answer:
        return fault if any(name in body for name in parameters) else GOOD

    return handler


@pytest.mark.parametrize(
    "fault",
    [
        error(400, "Bad Request"),
        error(400, "JSON mode is not available for this model"),
        error(403, "You are not allowed to request that from this model"),
        error(404, "No endpoints found that can handle the requested parameters."),
        error(415, "?"),
        error(500, "oops"),
        error(502, "bad gateway"),
        Answer(status=422, body={}),
        Answer(status=200, body={"error": {"message": "response_format and logprobs are not supported"}}),
        Answer(status=200, body={"error": {"message": "Provider returned error", "code": 400}}),
    ],
)
@pytest.mark.parametrize("parameters", [["response_format"], ["logprobs"], ["response_format", "logprobs"]])
def test_a_server_that_does_not_say_what_it_does_not_take_is_found_out_by_leaving_it_out(
    fault: Answer, parameters: list[str]
) -> None:
    told: list[str] = []
    with ReplyServer(picky(fault, *parameters), keep=True) as server:
        found = replies(server.url, [graded(str(n), logprobs=True, top_logprobs=5) for n in range(12)], say=told.append)
    assert {one.text for one in found} == {GOOD}
    assert all(any(f"'{name}'" in said for said in told) for name in parameters)
    assert server.asked.total() <= 12 + 3 * 12
    assert not set(parameters) & server.bodies[-1].keys()


def test_passing_failures_of_a_server_that_has_taken_it_are_not_laid_on_structure() -> None:
    turns: Iterator[str | Answer] = iter([GOOD, error(500, "oops"), error(500, "oops"), *[GOOD] * 60])
    told: list[str] = []
    with ReplyServer(lambda _: next(turns), keep=True) as server:
        replies(server.url, [graded(str(n)) for n in range(12)], say=told.append)
    assert told == []
    assert all("response_format" in body for body in server.bodies)


@pytest.mark.parametrize(
    "fault",
    [
        error(400, "maximum context length is 100 (140 in the messages, 9 in the response_format)", code="x"),
        error(400, "140 tokens, 9 of them in the response_format", code="context_length_exceeded", param="messages"),
        error(400, "filtered: the grammar of hate", code="content_filter"),
        error(400, "bad logprobs in the text", param="messages"),
    ],
)
def test_an_error_about_the_words_of_a_request_is_laid_on_no_parameter(fault: Answer) -> None:
    told: list[str] = []

    def handler(body: dict[str, Any]) -> str | Answer:
        return fault if body["messages"][0]["content"] == "0" else GOOD

    with ReplyServer(handler, keep=True) as server:
        found = replies(server.url, [graded(str(n), logprobs=True) for n in range(6)], say=told.append)
    assert [one.status for one in found] == ["refused"] + ["ok"] * 5
    assert not any("not take" in said for said in told)
    assert all("response_format" in body for body in server.bodies)


@pytest.mark.parametrize(
    "fault",
    [
        error(400, "Invalid 'response_format': too long, not supported", param="response_format", code="unsupported"),
        error(400, "This model does not support response_format; see the safety notes"),
        Answer(status=422, body={"detail": [{"loc": ["body", "response_format"], "msg": "too long, not permitted"}]}),
    ],
)
def test_a_parameter_that_is_named_is_meant_whatever_else_is_said(fault: Answer) -> None:
    found, told, _ = asked(picky(fault, "response_format"))
    assert {one.text for one in found} == {GOOD}
    assert len(told) == 1


def test_a_trial_that_the_server_has_no_time_for_shows_nothing() -> None:
    turns: Iterator[str | Answer] = iter(
        [error(400, "Bad Request"), error(429, "slow down", headers={"Retry-After": "0"}), error(400, "Bad Request")]
    )
    told: list[str] = []
    with ReplyServer(lambda _: next(turns, GOOD)) as server:
        found = replies(server.url, [graded()], say=told.append)
    assert [one.text for one in found] == [GOOD]
    assert told == [
        "m at " + server.url + "/chat/completions does not take 'response_format': left out (status 400: Bad Request)"
    ]


@pytest.mark.parametrize(
    ("fault", "most"),
    [(error(400, "the request exceeds the available context size"), 12), (error(418, "never"), 12 + 3 * 3)],
)
def test_no_more_is_tried_in_vain_than_a_few_times(fault: Answer, most: int) -> None:
    with ReplyServer(lambda _: fault) as server:
        found = replies(server.url, [graded(str(n), logprobs=True) for n in range(12)], say=lambda _: None)
    assert {one.status for one in found} == {"refused"}
    assert server.asked.total() <= most


def test_an_unknown_model_is_asked_for_once() -> None:
    fault = error(404, "The model does not exist", code="model_not_found")
    with ReplyServer(lambda _: fault) as server, pytest.raises(AssertionError, match="Check the tier's model"):
        replies(server.url, [graded(str(n)) for n in range(5)])
    assert server.asked.total() == 1


def test_what_cannot_be_left_out_ends_the_run_and_no_loop() -> None:
    def handler(body: dict[str, Any]) -> str | Answer:
        name = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
        return error(400, f"Unsupported parameter: '{name}'", param=name)

    with ReplyServer(handler) as server, pytest.raises(AssertionError, match="extra_body"):
        replies(server.url, [graded(max_tokens=5, max_completion_tokens=500)], say=lambda _: None)
    assert server.asked.total() <= 3


def test_a_reply_is_recorded_in_the_dialect_in_which_it_was_asked_for() -> None:
    with ReplyServer(lambda _: GOOD) as server:
        asked_both = [graded(str(n), logprobs=True) for n in range(4)] + [graded(str(n)) for n in range(4)]
        found = replies(server.url, asked_both, say=lambda _: None)
    assert [one.dialect for one in found] == ["~logprobs"] * 4 + [""] * 4


def test_an_error_that_stays_without_structure_is_not_laid_on_it() -> None:
    told: list[str] = []
    with ReplyServer(lambda _: error(500, "down")) as server, pytest.raises(AssertionError):
        replies(server.url, [graded()], say=told.append, max_attempts=2)
    assert told == []


def test_a_server_that_ignores_the_schema_is_found_out_by_its_first_replies() -> None:
    found, told, server = asked(lambda _: PROSE)
    assert len(told) == 1
    assert "does not keep to it" in told[0]
    assert {one.dialect for one in found} == {"~response_format"}
    assert all("response_format" in body for body in server.bodies)


@pytest.mark.parametrize("place", [0, 1, 7])
def test_one_faulty_reply_among_many_accuses_nobody(place: int) -> None:
    told: list[str] = []

    def handler(body: dict[str, Any]) -> str:
        return PROSE if body["messages"][0]["content"] == str(place) else GOOD

    with ReplyServer(handler) as server:
        found = replies(server.url, [graded(str(n)) for n in range(12)], say=told.append)
    assert told == []
    assert [one.dialect for one in found if one.text == GOOD] == [""] * 11


@pytest.mark.parametrize(
    "answer",
    [
        Answer("<think>{}</think>\n" + GOOD),
        Answer("", message={"refusal": "no"}),
        Answer('{"gra', finish_reason="length"),
        Answer("```json\n" + GOOD + "\n```"),
    ],
)
def test_thinking_refusals_and_cut_off_replies_do_not_show_that_it_is_ignored(answer: Answer) -> None:
    assert asked(lambda _: answer, 3)[1] == []


@pytest.mark.parametrize(
    "said",
    [
        "You are not allowed to request logprobs from this model",
        "logprobs are not supported with reasoning models.",
        "Requested sample logprobs of 20, which is greater than max allowed: 5",
    ],
)
def test_a_server_that_refuses_probabilities_is_asked_without(said: str) -> None:
    def handler(body: dict[str, Any]) -> str | Answer:
        return error(400, said) if "logprobs" in body else GOOD

    found, told, server = asked(handler, logprobs=True, top_logprobs=20)
    assert {one.dialect for one in found} == {"-logprobs -top_logprobs"}
    assert len(told) == 1
    assert said in told[0]
    assert server.asked.total() == 13
    assert "top_logprobs" not in server.bodies[-1]


def test_a_server_that_gives_no_probabilities_is_found_out() -> None:
    found, told, _ = asked(lambda _: GOOD, logprobs=True, top_logprobs=5)
    assert len(told) == 1
    assert "gives none" in told[0]
    assert {one.dialect for one in found} == {"~logprobs"}


TOKENS: list[Mapping[str, Any]] = [
    {"token": '{"grade": ', "bytes": None, "logprob": 0.0, "top_logprobs": []},
    {"token": "2", "bytes": [50], "logprob": -0.25, "top_logprobs": [{"token": "2", "bytes": [50], "logprob": -0.25}]},
    {"token": "}", "bytes": None, "logprob": -1e-9, "top_logprobs": []},
]


def test_probabilities_are_those_that_the_openai_package_reads() -> None:
    answer = Answer(GOOD, logprobs=TOKENS)
    found = ChatCompletion.model_validate(completion({"model": "m", "messages": []}, answer)).choices[0].logprobs
    assert found is not None
    assert found.content is not None
    with ReplyServer(lambda _: answer) as server:
        ours = reply(server.url, graded(logprobs=True, top_logprobs=1)).logprobs
    assert ours == tuple(
        Token(one.token, round(one.logprob, 6), tuple((top.token, top.logprob) for top in one.top_logprobs))
        for one in found.content
    )


@pytest.mark.parametrize(
    "logprobs",
    [
        [],
        [None],
        [{"token": 7, "logprob": 0.0}],
        [{"token": "a", "logprob": "sure"}],
        [{"token": "a", "logprob": True}],
        [{"token": "a"}],
    ],
)
def test_nonsense_probabilities_are_none(logprobs: list[Any]) -> None:
    with ReplyServer(lambda _: Answer(GOOD, logprobs=logprobs)) as server:
        assert reply(server.url, graded(logprobs=True)).logprobs is None


def test_probabilities_that_json_cannot_hold_are_none() -> None:
    body = '{"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": NaN}]}}]}'
    with ReplyServer(lambda _: Answer(body=body)) as server:
        assert reply(server.url, graded()).logprobs is None
