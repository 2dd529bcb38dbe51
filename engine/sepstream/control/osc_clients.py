"""Those who play by OSC, as values: what is to come, who listens, and who tries our patience.

Each value is frozen, its methods give the next one; times are seconds of one steady clock, passed in. Everything is
bounded, whoever sends.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from ..errors import ControlError
from .osc import Client, Message, Timed
from .osc_protocol import Subscribe
from .table import Change, Value

MAX_WAITING = 1024  # messages with a time tag in the future
MAX_AHEAD_S = 60.0
MAX_SUBSCRIBERS = 16
EXPIRY_S = 60.0  # of a subscription that is not renewed
MAX_CHANGES = 64  # to one subscriber at a time: a whole scene at once would overflow the buffer of its socket
REST_S = 0.3  # a control is not sent back to the hand that is moving it; later it is, because a datagram may be lost
MAX_SENDERS = 256  # whose errors are counted; beyond that the one longest known is forgotten
MAX_ERRORS = 200  # in a second; a sender with more is not listened to until the next
MAX_ANSWERS = 10  # of these errors, the first, that are answered


class Waiting(NamedTuple):
    due: float
    sender: Client
    message: Message


@dataclass(frozen=True)
class Schedule:
    """Messages by their time, the next first; those of equal time in the order of their arrival."""

    waiting: tuple[Waiting, ...] = ()

    def add(self, sender: Client, messages: Iterable[Timed], now: float) -> "Schedule":
        """All messages of a datagram, or none of them: raises ControlError for too many of the future, or one too far ahead.

        Those for at once come with the next ``due``, however many wait for later.
        """
        waiting = list(self.waiting)
        for wait_s, message in messages:
            if wait_s > MAX_AHEAD_S:
                raise ControlError(f"{message.address}: time tag {wait_s:.0f} s ahead; expected {MAX_AHEAD_S:.0f} s at most")
            due = now + wait_s
            waiting.insert(bisect_right(waiting, due, key=_due), Waiting(due, sender, message))
        later = len(waiting) - bisect_right(waiting, now, key=_due)
        if later > MAX_WAITING:
            raise ControlError(f"{later} messages wait for their time; expected {MAX_WAITING} at most, send them later")
        return Schedule(tuple(waiting))

    def due(self, now: float) -> tuple[tuple[Waiting, ...], "Schedule"]:
        """Those whose time has come, and the schedule of the others."""
        count = bisect_right(self.waiting, now, key=_due)
        return (self.waiting[:count], Schedule(self.waiting[count:])) if count else ((), self)


class News(NamedTuple):
    """What one subscriber is to be sent now, beside the telemetry."""

    client: Client
    by_place: bool
    changes: tuple[Change, ...]


class _Unsent(NamedTuple):
    value: Value
    not_before: float


@dataclass(frozen=True)
class _Subscriber:
    sender: Client  # who asked
    rate_hz: float
    by_place: bool
    until: float
    next: float = -math.inf
    unsent: Mapping[str, _Unsent] = field(default_factory=dict)  # the last value of each control

    def told(self, values: Mapping[str, Value], not_before: float) -> "_Subscriber":
        """A later time that stands already stays: another's change does not jerk a control out of a hand either."""
        unsent = dict(self.unsent)
        for name, value in values.items():
            unsent[name] = _Unsent(value, max(not_before, unsent[name].not_before if name in unsent else -math.inf))
        return replace(self, unsent=unsent)

    def sent(self, changes: Iterable[Change], now: float) -> "_Subscriber":
        """The next time is in step with the last one; after a pause, with now."""
        period = 1.0 / self.rate_hz
        gone = {change.name for change in changes}
        return replace(
            self,
            next=self.next + period if now < self.next + period else now + period,
            unsent={name: unsent for name, unsent in self.unsent.items() if name not in gone},
        )


@dataclass(frozen=True)
class Subscribers:
    """Who gets every change and the telemetry, each at its own rate."""

    listening: Mapping[Client, _Subscriber] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.listening)

    def add(self, sender: Client, wish: Subscribe, now: float, present: Mapping[str, Value]) -> "Subscribers":
        """Subscribe, or renew for EXPIRY_S. A new subscriber is first sent ``present``, the values of all controls.

        Raises ControlError for one too many.
        """
        target, listening = _target(sender, wish.port), self._awake(now)
        one = listening.get(target)
        if one is None and len(listening) >= MAX_SUBSCRIBERS:
            raise ControlError(f"{len(listening)} subscribers already; expected one of them to send /unsubscribe")
        if one is None or one.by_place != wish.by_place:
            one = _Subscriber(sender, wish.rate_hz, wish.by_place, 0.0).told(present, -math.inf)
        one = replace(one, sender=sender, rate_hz=wish.rate_hz, until=now + EXPIRY_S)
        return Subscribers({**listening, target: one})

    def remove(self, sender: Client, port: int | None) -> "Subscribers":
        """As if it had never subscribed; nothing for one that has not."""
        gone = _target(sender, port)
        return Subscribers({client: one for client, one in self.listening.items() if client != gone})

    def changed(self, values: Mapping[str, Value], now: float, sender: Client | None = None) -> "Subscribers":
        """Note new values of controls for everybody; ``sender`` moved them, and hears of them when its hand rests."""
        if not values or not self.listening:
            return self
        return Subscribers({
            client: one.told(values, now + REST_S if sender in (client, one.sender) else now)
            for client, one in self.listening.items()
        })  # fmt: skip

    def due(self, now: float) -> tuple[tuple[News, ...], "Subscribers"]:
        """Whom to send something now, if only the telemetry. Who did not renew is gone."""
        listening, news = self._awake(now), []
        for client, one in listening.items():
            if one.next <= now:
                ready = (Change(name, value) for name, (value, not_before) in one.unsent.items() if not_before <= now)
                news.append(News(client, one.by_place, tuple(islice(ready, MAX_CHANGES))))
        sent = {item.client: listening[item.client].sent(item.changes, now) for item in news}
        return tuple(news), Subscribers(listening | sent) if sent else self

    def _awake(self, now: float) -> dict[Client, _Subscriber]:
        return {client: one for client, one in self.listening.items() if now < one.until}


@dataclass(frozen=True)
class Patience:
    """How many errors each sender made in its present second: a flood of them is neither answered nor read to its end."""

    counts: Mapping[Client, tuple[float, int]] = field(default_factory=dict)  # when the second began, errors in it

    def listens(self, sender: Client, now: float) -> bool:
        return self._count(sender, now)[1] < MAX_ERRORS

    def error(self, sender: Client, now: float) -> tuple[bool, "Patience"]:
        """Count one more; whether it is to be answered."""
        began, count = self._count(sender, now)
        counts = {**self.counts, sender: (began, count + 1)}
        if len(counts) > MAX_SENDERS:
            del counts[next(iter(counts))]
        return count < MAX_ANSWERS, Patience(counts)

    def _count(self, sender: Client, now: float) -> tuple[float, int]:
        began, count = self.counts.get(sender, (now, 0))
        return (began, count) if now < began + 1.0 else (now, 0)


def _due(waiting: Waiting) -> float:
    return waiting.due


def _target(sender: Client, port: int | None) -> Client:
    return sender if port is None else (sender[0], port)
