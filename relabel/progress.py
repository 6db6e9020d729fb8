"""How a pass looks while it goes: a live table on a terminal, a line now and then in a log file. All on stderr."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from relabel.asker import Progress, TierProgress

_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Screen:
    """Shows a progress; call it as often as you like."""

    def __init__(self, console: Console, priced: bool) -> None:
        self._console = console
        self._priced = priced
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._started = time.monotonic()
        self._said = self._started
        self._since: tuple[float, float, float] | None = None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if self._since is None and any(tier.replied for tier in progress.tiers.values()):
            self._since = (now, progress.fraction or 0.0, _cost(progress))
        if self._live is not None:
            self._live.update(self._table(progress, now), refresh=True)
        elif now - self._said >= _EVERY:
            self._said = now
            self._console.print(self._line(progress, now), highlight=False, soft_wrap=True)

    def _table(self, progress: Progress, now: float) -> Table:
        table = Table(box=None, pad_edge=False, caption=self._outlook(progress, now), caption_justify="left")
        table.add_column("tier", style="bold")
        for name in ("done", "awaited", "from ledger", "abstained", "unanswered", "tokens in", "tokens out", "cost"):
            table.add_column(name, justify="right")
        for name, tier in progress.tiers.items():
            if not tier.done and not tier.awaited and not tier.candidates:
                continue
            usage = tier.usage
            table.add_row(
                name,
                *(f"{n:,}" for n in (tier.done, tier.awaited, tier.from_ledger)),
                _share(tier),
                f"{tier.unanswered:,}" if tier.unanswered else "",
                f"{usage.prompt:,}",
                f"{usage.completion:,}",
                f"${tier.cost:.2f}" if self._priced else "",
            )
        return table

    def _line(self, progress: Progress, now: float) -> str:
        parts = [
            f"{name}: {tier.done:,} done, {tier.awaited:,} awaited, {tier.from_ledger:,} from the ledger, "
            f"{_share(tier) or 'none'} abstained"
            for name, tier in progress.tiers.items()
            if tier.done or tier.awaited
        ]
        return " · ".join([*parts, self._outlook(progress, now)])

    def _outlook(self, progress: Progress, now: float) -> str:
        if progress.stopping:
            waiting = sum(tier.awaited for tier in progress.tiers.values())
            return f"Stopping ({progress.stopping}): {waiting:,} replies are still awaited; Ctrl-C gives them up."
        words = [f"{progress.instances:,} instances", f"{_clock(now - self._started)} so far"]
        words += [progress.pulse] if progress.pulse else []
        fraction = progress.fraction
        if fraction is not None:
            words.insert(0, f"{min(fraction, 1.0):.0%}")
        cost = _cost(progress)
        if self._priced:
            words.append(f"${cost:.2f} so far")
        if self._since is not None and fraction is not None and fraction < 1:
            then, at, spent = self._since
            if fraction - at > 0.002:
                left = (1 - fraction) / (fraction - at)
                words.append(f"about {_clock((now - then) * left)} left")
                if self._priced:
                    words.append(f"${cost + (cost - spent) * left:.2f} at the end")
        return ", ".join(words)


def _cost(progress: Progress) -> float:
    return sum(tier.cost for tier in progress.tiers.values())


def _share(tier: TierProgress) -> str:
    return f"{tier.abstained:,} ({tier.abstained / tier.candidates:.1%})" if tier.abstained else ""


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
