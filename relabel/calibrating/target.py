"""How much may be escalated: a share, what it may cost, or what mistakes cost beside a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from relabel.calibrating.agreement import Judged
from relabel.calibrating.fitting import Flags, Floats
from relabel.calibrating.rule import BestAgreement, Predicted
from relabel.errors import ConfigError

SHARES = tuple(round(0.05 * step, 2) for step in range(21))
"""Those that are measured, and tried for the least loss."""


class Loss(NamedTuple):
    """What a missed false negative, a true negative taken for one, and a strong verdict cost beside each other."""

    miss: float
    alarm: float
    call: float


def target_of(share: float | None, usd: float | None, loss: str | None, price: float | None = None) -> Target:
    """The target that options name, or three tenths of the candidates. Raises ConfigError."""
    if price is not None and not 0 <= price < float("inf"):
        raise ConfigError(f"--strong-price {price:g}: expected US dollars for one strong verdict, 0 or more")
    named = [name for name, value in (("--share", share), ("--usd", usd), ("--loss", loss)) if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)}: name one of them")
    if share is not None and not 0 <= share <= 1:
        raise ConfigError(f"--share {share:g}: expected a share of the candidates, from 0 to 1")
    if usd is not None and not 0 <= usd < float("inf"):
        raise ConfigError(f"--usd {usd:g}: expected US dollars for a thousand candidates, 0 or more")
    if loss is not None:
        return Target(loss=_loss_of(loss))
    return Target(usd=usd) if usd is not None else Target(share=0.3 if share is None else share)


def _loss_of(text: str) -> Loss:
    try:
        loss = Loss(*map(float, text.split(":")))
    except (ValueError, TypeError):
        raise ConfigError(f"--loss {text}: expected three numbers MISS:ALARM:CALL, such as 5:1:0.05") from None
    if not (all(0 <= one < float("inf") for one in loss) and loss.miss and loss.alarm):
        raise ConfigError(f"--loss {text}: a miss and an alarm cost more than 0, and a call 0 or more")
    return loss


@dataclass(frozen=True, slots=True)
class Target:
    """One of: the `share` of the candidates that reach the strong tier, what it may cost for a thousand candidates in
    US dollars, or the expected `loss` to make least.
    """

    share: float | None = None
    usd: float | None = None
    loss: Loss | None = None

    def threshold(self, judged: Judged, probability: Floats) -> float:
        """Where a loss is named, the probability at which both mistakes cost the same; else what agrees best with
        people's labels.
        """
        if self.loss is not None:
            return self.loss.alarm / (self.loss.alarm + self.loss.miss)
        return BestAgreement().threshold(judged, probability)

    @property
    def fixed(self) -> bool:
        """Whether the threshold follows from the loss alone."""
        return self.loss is not None

    def escalated(self, judged: Judged, cheap: Predicted, strong: Flags, price: float | None) -> float:
        """The share to escalate. Raises ConfigError where a cost is named and the price is not known."""
        if self.share is not None:
            return self.share
        if self.usd is not None:
            if price is None:
                raise ConfigError("--usd needs to know what a strong verdict costs: --strong-price, in US dollars")
            return min(1.0, self.usd / 1000 / price) if price else 1.0
        return SHARES[int(np.argmin([self._loss(judged, cheap, strong, cheap.unsure(share)) for share in SHARES]))]

    def _loss(self, judged: Judged, cheap: Predicted, strong: Flags, unsure: Flags) -> float:
        assert self.loss is not None
        found = cheap.found(unsure, strong)
        missed, alarms = int((judged.relevant & ~found).sum()), int((found & ~judged.relevant).sum())
        return self.loss.miss * missed + self.loss.alarm * alarms + self.loss.call * int(unsure.sum())

    def as_dict(self) -> dict[str, float]:
        """For calibration.json."""
        if self.loss is not None:
            return self.loss._asdict()
        return {"share": self.share} if self.share is not None else {"usd_per_thousand": self.usd or 0.0}
