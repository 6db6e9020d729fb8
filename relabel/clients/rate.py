"""How fast a server takes requests, and how many at once, found out by sending them.

Slow start: the rate doubles with every round trip, as long as the server takes most of what is sent. Once refusals
show that this is too much, it is cut to a little less than what was taken, and so is the number in flight. Both grow
back, slower after every cut, and faster again while none is needed: they settle just below what the server takes, and
follow it.

A server may refuse requests for reasons of its own, too. So every cut goes below what was taken before, and what is
refused even then is held to be the server's own: so much of the cut is taken back, and only more than that share leads
to another one.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

_FIRST = 16
"""Requests in flight with which slow start begins, after a first one has shown how long a round trip is."""

_CUT = 0.94
"""What a cut leaves of the rate at which requests were taken."""

_BACK = (3.0, 24.0)
"""Seconds in which rate and number are back where a cut began: at first, and at most; twice as many with every cut."""

_STEPS = (0.0025, 1.0)
"""Bounds on the share by which they grow in a second, after slow start."""

_SPAN, _ENOUGH = 1.0, 20
"""The sample on which all is judged: what was sent in the last second, or the last so many requests."""

_TRIAL = (1.0, 4.0, 50)
"""A cut is judged after so many seconds at least and at most, and in between once so many requests have been sent."""

_BURST = 0.25
"""What was taken in less than so many seconds may have been a burst, and is counted as if it had taken as long."""

_MOST = 0.6
"""A greater share of refusals is never held to be the server's own."""

_KNOCK = 1.0
"""Requests per second to a server that takes none."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """A cut: what was before, what was taken then in a second, and when its effect can first be seen."""

    rate: float
    at_once: float
    step: float | None
    taken: float
    since: float


class Rate:
    """Requests per second and in flight. All times are in seconds, of one clock."""

    def __init__(self) -> None:
        self.per_second = float(_FIRST)
        self.at_once = math.inf
        self.own = 0.0
        """The share of requests that the server refuses whatever the rate."""
        self._round_trip = 1.0  # until it is known
        self._known = False
        self._step: float | None = None  # None: slow start
        self._back = _BACK[0]
        self._closed = False
        self._sent: deque[float] = deque()
        self._refused: deque[tuple[float, int]] = deque()  # with how many others were in flight
        self._free_at = 0.0
        self._grown_at = 0.0
        self._cut_at = 0.0
        self._trial: _Trial | None = None

    def pause(self, now: float) -> float:
        """Seconds until another request may be sent."""
        return self._free_at - now

    def sent(self, now: float, in_flight: int = 0) -> None:
        """A request is sent, beside so many that are in flight."""
        self._sent.append(now)
        self._sample(now)
        self._judge(now)
        grows = min(now - self._grown_at, _SPAN)
        self._grown_at = now
        if self._free_at > now - 2 / self.per_second:  # it is this rate that holds us up
            self.per_second *= self._growth(grows)
        if in_flight + 1 >= self.at_once:
            self.at_once *= self._growth(grows)
        self._free_at = max(self._free_at, now - 1 / self.per_second) + 1 / self.per_second

    def taken(self, now: float, seconds: float) -> None:
        """The server has answered a request, after so many seconds."""
        seconds = max(seconds, 0.001)
        self._round_trip = min(self._round_trip, seconds) if self._known else seconds
        self._closed = False
        if not self._known and self._step is None:
            self.per_second = _FIRST / self._round_trip
            self._grown_at = self._free_at = now
        self._known = True

    def refused(self, now: float, in_flight: int = 0, *, silenced: bool = False) -> bool:
        """The server has refused a request because there are too many, with so many others in flight; `silenced` says
        that it has asked for a silence, too. Returns whether less is sent for that.
        """
        self._refused.append((now, in_flight))
        self._judge(now)
        if self._trial is not None or self._closed:
            return False
        sent, refused = self._sample(now)
        if self._step is None and not silenced:
            if refused < 8 or 2 * refused < sent:
                return False
        elif refused <= self.own * sent + 3 * math.sqrt(self.own * (1 - self.own) * sent) + (not silenced):
            if sent >= _ENOUGH and refused < self.own * sent / 2:
                self.own = refused / sent
            return False
        self._cut(now, sent, refused)
        return True

    def _sample(self, now: float) -> tuple[int, int]:
        """How many of the last requests were sent, and refused."""
        span = now - self._trial.since if self._trial else _SPAN
        while len(self._sent) > _ENOUGH and self._sent[0] < now - span:
            self._sent.popleft()
        while self._refused and (not self._sent or self._refused[0][0] < self._sent[0]):
            self._refused.popleft()
        return len(self._sent), len(self._refused)

    def _growth(self, seconds: float) -> float:
        """The factor by which rate or number grow in this time."""
        if self._trial is not None or self._closed:
            return 1.0
        if self._step is None:
            return math.pow(2.0, seconds / self._round_trip)
        if self._grown_at - self._cut_at > self._back:
            self._step, self._cut_at = min(2 * self._step, _STEPS[1]), self._grown_at
            self._back = max(self._back / 2, _BACK[0])
        return math.pow(1 + self._step, seconds)

    def _cut(self, now: float, sent: int, refused: int) -> None:
        """Send less than was taken, to see what is refused then."""
        self._free_at = self._cut_at = now
        if sent - refused <= max(1, 0.05 * sent):
            self.per_second, self._step, self._closed = _KNOCK, _STEPS[1], True
            return
        taken = (sent - refused) / max(now - self._sent[0], _BURST)
        self._trial = _Trial(self.per_second, self.at_once, self._step, taken, now + _SPAN)
        self.per_second = min(_CUT * taken, self.per_second)
        self.at_once = max(others for _, others in self._refused) or 1

    def _judge(self, now: float) -> None:
        """See what the last cut has led to, once that can be seen."""
        trial = self._trial
        if trial is None:
            return
        if now < trial.since:
            self._sent.clear()
            self._refused.clear()
            return
        seconds, (sent, refused) = now - trial.since, self._sample(now)
        if seconds < _TRIAL[0] or (seconds < _TRIAL[1] and sent < _TRIAL[2]) or not sent:
            return
        self._trial = None
        self.own = min(refused / sent, _MOST)
        self.per_second = min(_CUT * trial.taken / (1 - self.own), trial.rate)
        if self.own and self.per_second > 0.9 * trial.rate:  # there was no need
            self.per_second, self.at_once, self._step = trial.rate, trial.at_once, trial.step
        else:
            self._step = min(max(math.log(trial.rate / self.per_second) / self._back, _STEPS[0]), _STEPS[1])
            self._back = min(2 * self._back, _BACK[1])
