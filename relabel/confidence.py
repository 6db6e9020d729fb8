"""How sure a model was of what it said, from the probabilities of the tokens it might have written instead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relabel.records import Token


@dataclass(frozen=True, slots=True)
class Mass:
    """`score`: the probability of the label among all allowed ones. `outside`: what none of these can account for.

    Both in [0, 1].
    """

    score: float
    outside: float


def label_mass(tokens: Sequence[Token], text: str, value: int, spellings: Mapping[str, str], label: str) -> Mass | None:
    """The probability of a label where a reply's JSON had the choice.

    `value` is the place in the reply's `text` just after the colon of the JSON key, `spellings` says how the value
    begins for each label. At each token from there on, the alternatives are added to the label that they can only
    belong to, until the written one belongs to just one. None if the tokens are not those of the text.
    """
    found = _token_at(tokens, text, value)
    if found is None:
        return None
    at, skipped = found
    mass = dict.fromkeys(spellings, 0.0)
    path, written = 1.0, ""
    for token in tokens[at:]:
        alternatives = dict(token.top)
        alternatives[token.text] = token.logprob
        for alternative, logprob in alternatives.items():
            if alternative[: len(skipped)] != skipped:
                continue
            possible = _possible(written + alternative[len(skipped) :], spellings)
            if len(possible) == 1:
                mass[possible[0]] += path * math.exp(min(logprob, 0.0))
        written += token.text[len(skipped) :]
        if text[value : value + len(written)] != written[: len(text) - value]:
            return None
        if len(_possible(written, spellings)) < 2:
            break
        path, skipped = path * math.exp(min(token.logprob, 0.0)), ""
    inside = sum(mass.values())
    if not mass[label] or not math.isfinite(inside):
        return None
    return Mass(round(mass[label] / inside, 6), round(max(0.0, 1.0 - inside), 6))


def _token_at(tokens: Sequence[Token], text: str, value: int) -> tuple[int, str] | None:
    """The token that holds the character before `value` (the key's colon), and what of it stands before that value.

    Tokens may tell more than the text, such as thinking that the server has taken out of it; then the text's own are
    the last of them.
    """
    written = "".join(token.text for token in tokens)
    start = written.rfind(text[:value].lstrip())
    if start < 0 or not text[:value].strip():
        return None
    place = start + len(text[:value].lstrip())
    for at, token in enumerate(tokens):
        if place <= len(token.text):
            return at, token.text[:place]
        place -= len(token.text)
    return None


def _possible(written: str, spellings: Mapping[str, str]) -> list[str]:
    """The labels that a value can still come to, once this much of it is written."""
    begun = written.lstrip()
    return [
        label
        for label, spelling in spellings.items()
        if spelling.startswith(begun) or (begun.startswith(spelling) and not begun[len(spelling) :][:1].isalnum())
    ]
