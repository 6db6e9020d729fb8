"""Tokens to US dollars."""

from __future__ import annotations

from collections.abc import Mapping

from relabel.config import Price
from relabel.records import Usage


class Prices:
    """The config's prices, by model."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = prices

    def cost(self, model: str, usage: Usage) -> float | None:
        """US dollars for these tokens, or None for a model without a price. Cached tokens are part of the prompt's."""
        price = self._prices.get(model)
        if price is None:
            return None
        cached = price.prompt if price.cached is None else price.cached
        fresh = usage.prompt - usage.cached
        return (fresh * price.prompt + usage.cached * cached + usage.completion * price.completion) / 1e6
