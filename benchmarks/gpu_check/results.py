"""What the stages found, in one file that is written whole after each of them."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stdeploy.bench.measure import Report, Row
from stdeploy.bench.tables import to_markdown, write_text

ROOT = Path(__file__).parents[2]
PASSED, FAILED, CUT_OFF, IMPOSSIBLE = "passed", "failed", "cut off", "cannot run here"
_SOURCES = (
    "stdeploy/**/*.py",
    "tests/conftest.py",
    "tests/helpers/*.py",
    "tests/gpu/*.py",
    "benchmarks/gpu_check/*.py",
    "benchmarks/training_speed.py",
)


@dataclasses.dataclass
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of a test, or of what was measured.
        status: PASSED, FAILED or IMPOSSIBLE.
        said: figures, or the reason.
    """

    name: str
    status: str
    said: str = ""


@dataclasses.dataclass
class Outcome:
    """What a stage found.

    Attributes:
        status: PASSED, FAILED, or CUT_OFF where it took too long, which a later call mends.
        begun: when, UTC.
        seconds: that it took.
        findings: in the order in which they were found.
        report: of a benchmark, as `stdeploy bench --json` writes it.
        log: the last lines that it printed, if it did not pass.
    """

    status: str = CUT_OFF
    begun: str = ""
    seconds: float = 0.0
    findings: list[Finding] = dataclasses.field(default_factory=list)
    report: dict[str, Any] | None = None
    log: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self._path: Path | None = None  # no field: it is not written down

    def kept_in(self, path: Path) -> "Outcome":
        """The same, written to a file with all that is found from now on."""
        self._path = path
        return self

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """As `write` left it; nothing found where there is no such file."""
        if not path.is_file():
            return cls()
        return cls.of(json.loads(path.read_text()))

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Outcome":
        """From JSON."""
        return cls(**{**fields, "findings": [Finding(**found) for found in fields["findings"]]})

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        write_text(json.dumps(dataclasses.asdict(self)), path)

    def add(self, name: str, status: str, said: str = "") -> None:
        """Another finding."""
        self.findings.append(Finding(name, status, said))
        self._keep()

    def put_report(self, report: Report) -> None:
        """A benchmark, or what there is of it so far."""
        self.report = dataclasses.asdict(report)
        self._keep()

    def _keep(self) -> None:
        """A stage may be ended at any time, and what it has found is not to be lost."""
        if self._path is not None:
            self.write(self._path)


class Results:
    """Outcomes by stage, of one machine, its versions and one state of the sources.

    Args:
        folder: where the files are.
        slug: of the GPU, for their names.
        machine: what has to be the same for an earlier outcome to hold.
        title: of the page.
    """

    def __init__(self, folder: Path, slug: str, machine: Mapping[str, str], title: str) -> None:
        self.path = folder / f"{slug}.json"
        self.page = folder / f"{slug}.md"
        self._machine, self._title = {**machine, "sources": digest_of_sources()}, title
        self.outcomes: dict[str, Outcome] = {}
        if self.path.is_file():
            content = json.loads(self.path.read_text())
            if content["machine"] == self._machine:
                stages = content["stages"].items()
                self.outcomes = {name: Outcome.of(fields) for name, fields in stages}

    def keep(self, name: str, outcome: Outcome) -> None:
        """Put an outcome in, and write the files."""
        self.outcomes[name] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stages = {name: dataclasses.asdict(found) for name, found in self.outcomes.items()}
        content = {"machine": self._machine, "stages": stages}
        write_text(json.dumps(content, indent=1) + "\n", self.path)
        write_text(self._markdown(), self.page)

    def done(self, name: str) -> bool:
        """Whether a stage came to its end."""
        return name in self.outcomes and self.outcomes[name].status != CUT_OFF

    def _markdown(self) -> str:
        installed = ", ".join(f"{name} {text}" for name, text in self._machine.items())
        lines = [f"# {self._title}", "", f"Written by `make gpu-check`. {installed}.", ""]
        lines += ["| stage | | seconds | passed | failed | cannot run here |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
        for name, outcome in self.outcomes.items():
            counts = [
                str(sum(found.status == status for found in outcome.findings))
                for status in (PASSED, FAILED, IMPOSSIBLE)
            ]
            row = [name, outcome.status, f"{outcome.seconds:.0f}", *counts]
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
        for name, outcome in self.outcomes.items():
            for found in outcome.findings:
                told = found.status if found.status != PASSED else ""
                if told or found.said:
                    words = [text for text in (told, found.said) if text]
                    lines.append(f"- {name}, {found.name}: {': '.join(words)}")
        reports = [outcome.report for outcome in self.outcomes.values() if outcome.report]
        tables = [to_markdown(report_of(fields)) for fields in reports]
        return "\n".join(["\n".join(lines), *tables]) + ("" if tables else "\n")


def report_of(fields: Mapping[str, Any]) -> Report:
    """A benchmark's report from JSON."""
    return Report(**{**fields, "rows": tuple(Row(**row) for row in fields["rows"])})


def digest_of_sources() -> str:
    """Of what the stages run: other sources make earlier outcomes void. 12 hex digits."""
    digest = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
