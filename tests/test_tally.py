"""Counts add up, whatever the outcomes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relabel.config import Price
from relabel.costs import Prices
from relabel.records import Decision, Outcome, Quarantined, Usage, Verdict
from relabel.tally import Tally
from tests.conftest import instance

VERDICTS = st.sampled_from(
    [Verdict("cheap", "rlhn", "m", "better"), Verdict("cheap", "rlhn", "m", None, "length")]
).map(lambda verdict: (verdict,))
DECISIONS = st.builds(
    Decision, st.sampled_from(["relabel", "drop", "keep"]), st.sampled_from(["a", "undecided"]), st.just(""), VERDICTS
)
OUTCOMES = st.lists(DECISIONS, max_size=6).flatmap(
    lambda decisions: st.builds(
        lambda action, subset: Outcome(instance(len(decisions), subset=subset), action, "why", tuple(decisions)),
        st.sampled_from(["keep", "remove"]),
        st.sampled_from(["nq", "fever", ""]),
    )
)


@given(st.lists(OUTCOMES | st.just(Quarantined(1, "line 3: broken", None))))
def test_every_record_and_every_candidate_is_counted_once(found: list[Outcome | Quarantined]) -> None:
    tally = Tally()
    for record in found:
        tally.add(record)
    counts = tally.as_dict()
    instances, candidates = counts["instances"], counts["candidates"]
    assert instances["in"] == instances["cleaned"] + instances["removed"] + instances["quarantined"] == len(found)
    judged = sum(len(record.decisions) for record in found if isinstance(record, Outcome))
    assert candidates["in"] == candidates["relabel"] + candidates["drop"] + candidates["keep"] == judged
    assert sum(subset["candidates"] for subset in counts["subsets"].values()) == judged
    assert sum(counts["rules"].values()) == judged
    for tier in counts["tiers"].values():
        assert tier["candidates"] == sum(tier["labels"].values()) + sum(tier["abstained"].values()) + tier["unanswered"]


def test_reasons_that_differ_in_numbers_alone_are_one() -> None:
    tally = Tally()
    for column in (3, 77):
        tally.add(Quarantined(1, f"not JSON at column {column}", None))
    assert tally.as_dict()["quarantined_for"] == {"not JSON at column N": 2}


def test_cost_counts_cached_tokens_at_their_own_price_and_knows_when_it_knows_none() -> None:
    prices = Prices({"m": Price(prompt=2, cached=1, completion=10), "n": Price(prompt=2, completion=10)})
    usage = Usage(prompt=1_000_000, cached=500_000, completion=100_000)
    assert prices.cost("m", usage) == 0.5 * 2 + 0.5 * 1 + 1
    assert prices.cost("n", usage) == 2 + 1
    assert prices.cost("unknown", usage) is None
