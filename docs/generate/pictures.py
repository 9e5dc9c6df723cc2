"""Pictures of the benchmarks, drawn from their figures when the site is built."""

import json
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from stdeploy.bench.measure import Report, Row
from stdeploy.bench.tables import draw

_BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Draw clips per second for every report of `stdeploy bench`."""
    for source in sorted(_BENCHMARKS.glob("*.json")):
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / f"{source.stem}.svg"
            draw(_report(json.loads(source.read_text())), picture)
            place = f"benchmarks/{picture.name}"
            files.append(File.generated(config, place, content=picture.read_text()))


def _report(figures: dict[str, Any]) -> Report:
    return Report(**(figures | {"rows": [Row(**row) for row in figures["rows"]]}))
