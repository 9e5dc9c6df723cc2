"""[events] of the file that names the sources: what is looked for, and who is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, FiniteFloat, model_validator

from stdeploy.artifacts.values import Spec
from stdeploy.errors import SpecError, check_choice
from stdeploy.events.sink import Names, SinkSettings
from stdeploy.events.sinks import KINDS


class Rule(Spec):
    """What makes an event.

    Attributes:
        name: unique among the rules.
        labels: classes of the network; the score is the sum of their probabilities.
        on: the score from which it is on.
        off: the score below which it is off again. Default: `on`.
        least_seconds: how long it is on before it is an event.
        cool_down_seconds: after the end of an event, how long none begins.
        sources: names of those that it applies to; None for all.
    """

    name: str = Field(min_length=1, max_length=100)
    labels: Names
    on: FiniteFloat = Field(gt=0, le=1)
    off: FiniteFloat = Field(ge=0, le=1)
    least_seconds: FiniteFloat = Field(default=0.0, ge=0)
    cool_down_seconds: FiniteFloat = Field(default=0.0, ge=0)
    sources: Names | None = None

    @model_validator(mode="before")
    @classmethod
    def _off_by_default(cls, fields: object) -> object:
        return (
            {"off": fields["on"], **fields}
            if isinstance(fields, dict) and "on" in fields
            else fields
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.off > self.on:
            raise ValueError(f"off = {self.off:g} is above on = {self.on:g}; at most on is allowed")
        for what, names in (("labels", self.labels), ("sources", self.sources or ())):
            if len(set(names)) < len(names):
                raise ValueError(f"{what} names one twice: {', '.join(names)}")
        return self


class _Table(Spec):
    """[events] itself; its rules and sinks are checked one by one, so that errors name them."""

    folder: Path = Path("events")
    gap_seconds: FiniteFloat = Field(default=10.0, gt=0)
    rules: tuple[dict[str, Any], ...] = Field(min_length=1)
    sinks: tuple[dict[str, Any], ...] = Field(min_length=1)


class EventSettings(Spec):
    """Everything that [events] says.

    Attributes:
        rules: what is looked for.
        sinks: who is told, by name.
        folder: where the queue lies.
        gap_seconds: answers further apart end an event.
    """

    rules: tuple[Rule, ...]
    sinks: Mapping[str, SinkSettings]
    folder: Path
    gap_seconds: float


def parse_events(fields: object, *, file: Path) -> EventSettings:
    """Check the table [events].

    Args:
        fields: as TOML gives it.
        file: where it stands; relative paths in it begin in its folder.

    Raises:
        SpecError: one line that names the place, the value and what is allowed.
    """
    table = _Table.parse(fields, source=f"{file}, [events]")
    rules = []
    for number, each in enumerate(table.rules, 1):
        place = f"{file}, [[events.rules]] {number}"
        rules.append(Rule.parse(each, source=place))
        _check_new(rules[-1].name, [rule.name for rule in rules[:-1]], place)
    sinks: dict[str, SinkSettings] = {}
    for number, each in enumerate(table.sinks, 1):
        place = f"{file}, [[events.sinks]] {number}"
        if "kind" not in each:
            raise SpecError(f"{place}: kind is missing; choose {', '.join(KINDS)}")
        check_choice(f"{place}: kind", each["kind"], KINDS)
        rest = {name: value for name, value in each.items() if name != "kind"}
        sink = KINDS[each["kind"]].parse(rest, source=place)
        name = sink.name or str(each["kind"])
        _check_new(name, sinks, place)
        for rule in sink.rules or ():
            check_choice(f"{place}: rule", rule, [each.name for each in rules])
        sinks[name] = sink.beside(file.parent)
    folder = file.parent / table.folder
    return EventSettings(
        rules=tuple(rules), sinks=sinks, folder=folder, gap_seconds=table.gap_seconds
    )


def _check_new(name: str, before: Sequence[str] | Mapping[str, object], place: str) -> None:
    if name in before:
        raise SpecError(f"{place}: name = {name!r} is taken; give each a name of its own")
