"""stdeploy doctor: what works on this host, and what to do about the rest."""

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from stdeploy.cli.console import out

if TYPE_CHECKING:
    from stdeploy.backends.base import Finding

_TOPIC, _STATUS = 18, 9  # signs
_STYLES = {"works": "green", "problem": "red", "absent": "yellow", "fact": ""}


def command(
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per finding.")] = False,
) -> None:
    """Show versions, processor, GPUs, the backends that work here, and known-bad combinations.

    The exit status is 1 if there is a problem; what is only absent is none.
    """
    from stdeploy.doctor import examine

    problems = 0
    for finding in examine():
        problems += finding.status == "problem"
        if as_json:
            print(json.dumps(dataclasses.asdict(finding)))
            continue
        _show(finding)
    if problems:
        raise typer.Exit(1)


def _show(finding: "Finding") -> None:
    """One line; on a terminal text in a column, and the remedy in one piece, to be pasted."""
    status = Text("" if finding.status == "fact" else finding.status, _STYLES[finding.status])
    if not out.is_terminal:
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        head = f"{finding.topic:<{_TOPIC}}{status.plain:<{_STATUS}}"
        out.print(f"{head}{finding.text}{remedy}", soft_wrap=True, markup=False)
        return
    line = Table.grid()
    line.add_column(width=_TOPIC)
    line.add_column(width=_STATUS)
    line.add_row(finding.topic, status, Text(finding.text))
    out.print(line)
    if finding.remedy:
        indent = max(2, min(_TOPIC + _STATUS, out.width - len(finding.remedy)))
        out.print(" " * indent + finding.remedy, style="bold", soft_wrap=True, markup=False)
