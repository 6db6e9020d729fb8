"""What the tests of calibration share: pairs whose truth is known, because it was drawn here."""

from __future__ import annotations

from typing import Any

import numpy as np

from relabel.calibrating.pairs import Pair, Pairs

CHEAP, STRONG = ["near.score", "cheap.grade"], ["strong.grade"]


def drawn(queries: int = 40, each: int = 10, *, strong_right: float = 0.9, seed: int = 0, **known: Any) -> Pairs:
    """Pairs of which 30 % are relevant; a score and a grade lean towards the truth, the strong judge is mostly so."""
    rng = np.random.default_rng(seed)
    pairs = []
    for query in range(queries):
        for place in range(each):
            relevant = bool(rng.random() < 0.3)
            finds = relevant if rng.random() < strong_right else not relevant
            cheap = {
                "near.score": float(rng.normal(0.6 if relevant else 0.4, 0.1)),
                "cheap.grade": float(np.clip(round(rng.normal(2 if relevant else 1, 0.7)), 0, 3)),
            }
            pairs.append(Pair(f"q{query}", f"d{place}", cheap, {"strong.grade": 2.0 * finds}, finds, relevant, "nq"))
    return Pairs(pairs, "strong", CHEAP, STRONG, **known)
