"""Against servers of every kind, simulated: the client settles near what each takes, and is refused little of what it
sends. Time is a number here, so that minutes take no time.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from relabel.clients.rate import Rate


class Bucket:
    """Takes so many a second, and a burst."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.rate, self.burst, self.level, self.at = per_second, burst, burst, 0.0

    def takes(self, now: float, _: int) -> bool:
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        self.level -= (taken := self.level >= 1)
        return taken


class Window:
    """Takes so many in each period of so many seconds."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds, self.window, self.count = most, seconds, -1, 0

    def takes(self, now: float, _: int) -> bool:
        if (window := int(now / self.seconds)) != self.window:
            self.window, self.count = window, 0
        self.count += 1
        return self.count <= self.most


class AtOnce:
    """Takes so many at the same time."""

    def __init__(self, most: int) -> None:
        self.most = most

    def takes(self, _: float, in_flight: int) -> bool:
        return in_flight < self.most


@dataclass
class Simulation:
    """A client with endless work, up to `ceiling` in flight, before a server; a refusal takes 4 ms."""

    server: Bucket | Window | AtOnce
    latency: Callable[[random.Random], float]
    own: float = 0.0
    silence: float = 0.0
    ceiling: int = 256
    seed: int = 0
    taken: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def run(self, seconds: float) -> Simulation:
        chance, rate = random.Random(self.seed), Rate()
        now = silent = quiet_from = quiet_until = busy_until = 0.0
        landing: list[tuple[float, int, float | None]] = []  # when, number, and when it was sent if it is taken
        in_flight = accepted = number = 0

        def clock(at: float) -> float:
            return min(at, max(quiet_from, at - (quiet_until - quiet_from))) - silent

        while now < seconds:
            room = in_flight < min(self.ceiling, max(1, rate.at_once)) and (number == 0 or self.taken or not landing)
            send_at = max(now + rate.pause(clock(now)), quiet_until, busy_until, now) if room else math.inf
            if not landing or send_at < landing[0][0]:
                now, number, busy_until = send_at, number + 1, send_at + 0.0007
                rate.sent(clock(now), in_flight)
                in_flight += 1
                takes = chance.random() >= self.own and self.server.takes(now + 0.002, accepted)
                accepted += takes
                heapq.heappush(
                    landing, (now + (self.latency(chance) if takes else 0.004), number, now if takes else None)
                )
                continue
            now, _, sent_at = heapq.heappop(landing)
            in_flight -= 1
            if sent_at is not None:
                accepted -= 1
                rate.taken(clock(now), now - sent_at)
                self.taken.append(now)
                continue
            rate.refused(clock(now), in_flight, silenced=self.silence > 0)
            self.refused.append(now)
            if self.silence:
                if now >= quiet_until:
                    silent += quiet_until - quiet_from
                    quiet_from = quiet_until = now
                quiet_until = max(quiet_until, now + self.silence)
        return self

    def between(self, start: float, end: float) -> tuple[float, float]:
        """Requests taken in a second, and the share of refused ones."""
        taken, refused = (sum(start <= at < end for at in times) for times in (self.taken, self.refused))
        return taken / (end - start), refused / max(taken + refused, 1)


def steady(seconds: float) -> Callable[[random.Random], float]:
    return lambda _: seconds


def varied(median: float, spread: float) -> Callable[[random.Random], float]:
    return lambda chance: median * math.exp(chance.gauss(0, spread))


class TestALimit:
    @pytest.mark.parametrize("latency", [steady(0.002), steady(0.05), varied(0.3, 0.5), varied(0.3, 1.0)])
    @pytest.mark.parametrize("server", [lambda: Bucket(200, 10), lambda: Bucket(200, 200)])
    def test_of_requests_a_second_is_found_within_ten_seconds_and_kept(
        self, server: Callable[[], Bucket], latency: Callable[[random.Random], float]
    ) -> None:
        found = Simulation(server(), latency).run(60)
        assert found.between(9, 11)[0] > 180
        taken, refused = found.between(10, 60)
        assert taken > 180
        assert refused < 0.03

    @pytest.mark.parametrize("latency", [0.05, 0.3])
    def test_counted_by_the_second_of_the_clock_is_kept_too(self, latency: float) -> None:
        taken, refused = Simulation(Window(200, 1), steady(latency)).run(60).between(20, 60)
        assert taken > 180
        assert refused < 0.05

    def test_that_is_used_up_for_the_rest_of_the_minute_is_not_run_against(self) -> None:
        found = Simulation(Window(6000, 60), steady(0.05)).run(130)
        assert len(found.taken) > 2 * 6000
        assert sum(20 < at < 60 for at in found.refused) < 60

    def test_of_requests_at_once_is_found(self) -> None:
        taken, refused = Simulation(AtOnce(32), steady(0.1)).run(60).between(10, 60)
        assert taken > 0.9 * 320
        assert refused < 0.03

    @pytest.mark.parametrize("per_second", [1, 5])
    def test_may_be_as_low_as_one(self, per_second: int) -> None:
        assert Simulation(Bucket(per_second, 1), steady(0.3)).run(120).between(20, 120)[0] > 0.6 * per_second

    def test_that_is_lifted_is_noticed_and_one_that_is_lowered_too(self) -> None:
        class Changing(Bucket):
            def takes(self, now: float, in_flight: int) -> bool:
                self.rate = 200 if now < 30 else 400 if now < 90 else 100
                return super().takes(now, in_flight)

        found = Simulation(Changing(200, 20), steady(0.05)).run(120)
        assert found.between(70, 90)[0] > 320
        taken, refused = found.between(100, 120)
        assert taken > 90
        assert refused < 0.05

    @pytest.mark.parametrize("burst", [10, 200])
    def test_with_silences_costs_little_more_than_these(self, burst: int) -> None:
        assert Simulation(Bucket(200, burst), steady(0.05), silence=1).run(60).between(20, 60)[0] > 0.85 * 200


class TestNoLimit:
    def test_the_ceiling_is_reached_in_a_few_round_trips_and_used(self) -> None:
        found = Simulation(AtOnce(10**6), steady(1.0), ceiling=256).run(30)
        assert found.between(8, 30)[0] > 0.97 * 256

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("latency", [0.05, 1.0])
    def test_refusals_that_have_nothing_to_do_with_the_rate_do_not_slow_it_down(
        self, latency: float, seed: int
    ) -> None:
        found = Simulation(AtOnce(10**6), steady(latency), own=0.2, seed=seed, ceiling=64).run(40)
        assert found.between(10, 40)[0] > 0.9 * min(64 / latency, 0.8 / 0.0007)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("per_second", [50, 200])
    def test_nor_do_they_hide_a_limit(self, per_second: int, seed: int) -> None:
        found = Simulation(Bucket(per_second, per_second / 10), varied(0.1, 0.3), own=0.2, seed=seed).run(60)
        taken, refused = found.between(5, 60)
        assert taken > 0.7 * per_second
        assert refused < 0.35
