"""stdeploy doctor: what works on this host, and what to do about the rest."""

import dataclasses
import json
from typing import Annotated

import typer
from rich.text import Text

from stdeploy.cli.console import out

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
        word = "" if finding.status == "fact" else finding.status
        line = Text(f"{finding.topic:<18}")
        line.append(f"{word:<9}", style=_STYLES[finding.status])
        line.append(finding.text)
        if finding.remedy:
            line.append(f"; {finding.remedy}", style="bold")
        out.print(line, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
