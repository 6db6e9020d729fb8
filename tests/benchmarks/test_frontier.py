"""The benchmark of escalation measures on one file what was learnt from another, and looks at no label for it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="needs the extra `calibrate`")

from tests.benchmarks.frontier import compare, main, parsed, read

WORDS = ["river", "stone", "light", "winter", "garden", "engine", "letter", "market", "window", "paper"]


def rows(seed: int, queries: int = 20, each: int = 12) -> list[dict[str, Any]]:
    """Pairs whose words, cheap votes and strong grades lean towards their human grades."""
    rng = random.Random(seed)
    found = []
    for query in range(queries):
        topic = rng.sample(WORDS, 4)
        for place in range(each):
            human = rng.choice((0, 0, 0, 1, 2, 3))
            words = topic[: human + 1] + rng.sample(WORDS, 5)
            cheap = [max(0, min(3, human + rng.choice((-2, -1, 0, 1)))) for _ in range(3)]
            found.append(
                {
                    "qid": f"q{query}",
                    "docid": f"d{query}-{place}",
                    "query": " ".join(topic),
                    "text": f"{' '.join(words)} {place}",
                    "human": human,
                    "judges": {
                        "strong": max(0, min(3, human + rng.choice((-1, 0, 0)))),
                        "yes": int(human > rng.random() * 3),
                    },
                    "samples": {"cheap": cheap},
                    "prompt_votes": {"cheap": cheap[:2]},
                }
            )
    return found


def file(folder: Path, name: str, content: list[dict[str, Any]]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def options(fit: str, data: str, cheap: str = "samples:cheap,prompt_votes:cheap,yes") -> list[str]:
    return ["--fit", fit, "--data", data, "--strong", "strong", "--cheap", cheap, "--relevant", "2", "--no-embed"]


def test_the_last_line_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(options(file(tmp_path, "fit", rows(1)), file(tmp_path, "data", rows(2))))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["n"] == len(read(tmp_path / "data", 2).grades)
    assert [row["share"] for row in found["frontier"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for row in (*found["frontier"], *found["free_frontier"]):
        assert {"kappa", "precision", "recall", "kappa_95", "less_strong_only", "random"} <= row.keys()
    assert set(found["rlhn"]) >= {"share", "kappa", "calibrated_less_rlhn"}
    assert set(found["free_only"]) >= {"auc", "kappa"}
    assert found["strong_only"]["kappa"] > 0.5


def test_human_labels_of_the_measured_file_change_no_probability(tmp_path: Path) -> None:
    """They choose the labelled positive, which stays here, and measure; all others are turned round."""
    data = rows(2)
    turned: list[dict[str, Any]] = []
    best: dict[str, tuple[int, str]] = {}
    for row in data:
        if row["human"] > best.get(row["qid"], (-1, ""))[0]:
            best[row["qid"]] = (row["human"], row["docid"])
    for row in data:
        is_best = best[row["qid"]][1] == row["docid"]
        is_left_out = best[row["qid"]][0] < 2
        turned.append({**row, "human": 0 if is_left_out else 3 if is_best else 2 - min(row["human"], 2)})
    fit = file(tmp_path, "fit", rows(1))
    one, two = (
        compare(parsed(options(fit, file(tmp_path, name, content)))) for name, content in (("a", data), ("b", turned))
    )
    assert one.full.probability.tolist() == two.full.probability.tolist()
    assert one.free.probability.tolist() == two.free.probability.tolist()
    assert one.full.threshold.tolist() == two.full.threshold.tolist()
    assert one.frontier != two.frontier


def test_one_file_is_cross_validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, "fit", rows(1))
    main(options(path, path))
    assert "(cross-validated by query)" in capsys.readouterr().out


def test_signals_that_are_not_there_are_left_out_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, "fit", rows(1))
    main(options(path, path, cheap="samples:cheap,samples:other,nobody"))
    said = capsys.readouterr()
    assert "samples:other: not in both files, left out" in said.err
    assert "nobody: not in both files, left out" in said.err
    main(options(path, path, cheap="nobody"))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rlhn"] == {"share": None, "kappa": None}


def test_the_labelled_positive_is_the_first_of_the_best(tmp_path: Path) -> None:
    content = [{**row, "human": 3 if place in (4, 7) else 0} for place, row in enumerate(rows(1)[:12])]
    unjudged = [{**row, "qid": "other", "human": 1} for row in rows(1)[:12]]
    found = read(Path(file(tmp_path, "data", content + unjudged)), 2)
    (instance,) = found.instances
    assert instance.positives[0].docid == "d0-4"
    assert [passage.docid for passage in instance.negatives] == [f"d0-{n}" for n in range(12) if n != 4]


def test_a_judge_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, "fit", rows(1))
    with pytest.raises(SystemExit, match="--strong nobody: fit has no such judge; it has"):
        main([*options(path, path), "--strong", "nobody"])
