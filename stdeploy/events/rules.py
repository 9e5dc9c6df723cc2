"""Rules: from scores over time to the starts and ends of events (pure)."""

import dataclasses
import math
import uuid
from collections.abc import Callable, Collection, Sequence

from stdeploy.errors import SpecError, did_you_mean
from stdeploy.events.event import Answer, Event, Moment, Reason
from stdeploy.events.settings import Rule


def check_rules(
    rules: Sequence[Rule], *, labels: Collection[str], sources: Collection[str]
) -> None:
    """Refuse rules about labels or sources that there are not.

    Args:
        rules: what was asked for.
        labels: those of the network.
        sources: names of those that are watched.

    Raises:
        SpecError: one line that names the rule, and what there is.
    """
    for rule in rules:
        for label in rule.labels:
            if label not in labels:
                _refuse(f"rule {rule.name!r}: the network has no label {label!r}", label, labels)
        for source in rule.sources or ():
            if source not in sources:
                _refuse(f"rule {rule.name!r}: there is no source {source!r}", source, sources)


class Rules:
    """The state of every rule for every source.

    A score is on once it reaches `on`, and until it is less than `off`. An event starts when its
    score has been on for `least_seconds`, and then says when it rose; it ends with the first answer
    whose score is off. All times are those of the stream. An answer stands for the last frame of
    its clip, so a rise is seen up to the span of a clip after what causes it, and so is a fall.

    Args:
        rules: what they look for.
        gap_seconds: answers further apart than this, by the clock of the stream, are not about one
            event; nor are those whose clock goes back.
        new_id: gives what is unique to an event.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        gap_seconds: float,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._rules = tuple(rules)
        self._gap = gap_seconds
        self._new_id = new_id
        self._states: dict[tuple[str, str], _State] = {}
        self._last: dict[str, Moment] = {}

    def take(self, answer: Answer) -> list[Event]:
        """What an answer starts and ends, in order."""
        events = self._leap(answer)
        self._last[answer.source] = answer.at
        scores = dict(zip(answer.labels, answer.scores, strict=True))
        for rule in self._rules:
            if rule.sources is None or answer.source in rule.sources:
                state = self._states.setdefault((answer.source, rule.name), _State())
                # Classes exclude each other, so that one of several is the case by the sum.
                score = float(sum(scores[label] for label in rule.labels))
                events += self._look(rule, answer.source, state, score, answer.at)
        return events

    def break_off(self, source: str, reason: Reason) -> list[Event]:
        """End what is going on in a source, with its last answer.

        Args:
            source: its name.
            reason: why.
        """
        last = self._last.pop(source, None)
        events = []
        for rule in self._rules:
            state = self._states.get((source, rule.name))
            if state is None or last is None:
                continue
            if state.event is not None:
                events.append(self._end(rule, source, state, last, reason))
            state.rise = None
            # The clock begins anew; of the cool-down there remains what there was.
            state.quiet_until = max(0.0, state.quiet_until - last.seconds)
            state.clock_begins = True
        return events

    def close(self) -> list[Event]:
        """End everything, because the program ends."""
        sources = list(self._last)
        return [event for source in sources for event in self.break_off(source, "program_ended")]

    def running(self, source: str) -> bool:
        """Whether an event is going on in a source."""
        return any(
            state.event is not None for (of, _), state in self._states.items() if of == source
        )

    def _leap(self, answer: Answer) -> list[Event]:
        last = self._last.get(answer.source)
        if last is None or 0 <= answer.at.seconds - last.seconds <= self._gap:
            return []
        return self.break_off(answer.source, "clock_leapt")

    def _look(
        self, rule: Rule, source: str, state: "_State", score: float, at: Moment
    ) -> list[Event]:
        """Move the state of a rule on by one score."""
        if state.clock_begins:
            state.quiet_until += at.seconds
            state.clock_begins = False
        rise = state.rise
        if rise is None:
            if not (score >= rule.on and at.seconds >= state.quiet_until):
                return []
            rise = state.rise = _Rise(at, at, min(score, 1.0))
        elif not score >= rule.off:  # also where it is no number
            if state.event is None:
                state.rise = None
                return []
            return [self._end(rule, source, state, at, "score_fell")]
        rise.add(min(score, 1.0), at)  # rounding
        if state.event is not None or at.seconds - rise.start.seconds < rule.least_seconds:
            return []
        state.event = self._new_id()
        return [_event(rule, source, state.event, rise)]

    def _end(self, rule: Rule, source: str, state: "_State", end: Moment, reason: Reason) -> Event:
        assert state.event is not None
        assert state.rise is not None
        started = _event(rule, source, state.event, state.rise)
        state.event = state.rise = None
        state.quiet_until = end.seconds + rule.cool_down_seconds
        return dataclasses.replace(started, kind="end", end=end, reason=reason)


@dataclasses.dataclass
class _Rise:
    """A score that is on: since when, and how high it was."""

    start: Moment
    peak: Moment
    peak_score: float
    total: float = 0.0
    answers: int = 0

    def add(self, score: float, at: Moment) -> None:
        self.total += score
        self.answers += 1
        if score > self.peak_score:
            self.peak, self.peak_score = at, score


@dataclasses.dataclass
class _State:
    """Of one rule in one source.

    Attributes:
        rise: where the score is on.
        event: its id, where that has become an event.
        quiet_until: no event begins before, by the clock of the stream; where that begins anew,
            seconds from its beginning.
    """

    rise: _Rise | None = None
    event: str | None = None
    quiet_until: float = -math.inf
    clock_begins: bool = False


def _event(rule: Rule, source: str, event: str, rise: _Rise) -> Event:
    return Event(
        kind="start",
        event=event,
        rule=rule.name,
        source=source,
        labels=rule.labels,
        start=rise.start,
        peak=rise.peak,
        peak_score=rise.peak_score,
        mean_score=rise.total / rise.answers,
        answers=rise.answers,
    )


def _refuse(wrong: str, name: str, known: Collection[str]) -> None:
    near = did_you_mean(name, known)
    listed = list(known)
    shown = ", ".join(listed[:_SHOWN])
    more = f", ... ({len(listed)} in all)" if len(listed) > _SHOWN else ""
    raise SpecError(f"{wrong}{near or f'; there are {shown}{more}'}")


_SHOWN = 12  # names in an error
