"""One HTML page about networks that needs nothing beside it: pictures and style are inside."""

import base64
import dataclasses
import datetime
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stdeploy import __version__
from stdeploy.analysis.filter_projection import Projection
from stdeploy.analysis.filters import LayerFilters, StageFilters, analyse_all, by_stage
from stdeploy.analysis.kernels import read_kernels
from stdeploy.analysis.length_advice import RULES, Advice, recommend
from stdeploy.analysis.plots import draw_filters, draw_receptive_fields
from stdeploy.analysis.receptive_field import ReceptiveField, field_of_file
from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.files import whole_file
from stdeploy.errors import ArtifactError, MissingExtraError, SpecError
from stdeploy.export.flops import Cost, count_flops
from stdeploy.optional_packages import require

_STEPS = 3  # of the bar, beside the clips: card and cost, filters, pictures


@dataclasses.dataclass(frozen=True)
class Section:
    """What the page says about one artifact.

    What could not be found out is None, and the reason stands in `missing` under its name.

    Attributes:
        name: short, for headings and legends.
        path: of the file.
        size_bytes: of the file.
        card: of the artifact.
        cost: counted by fvcore.
        layers: figure 1.
        stages: means of the layers.
        advice: temporal lengths that they ask for.
        filters_picture: PNG as a data URI.
        field: figure 4.
        missing: reasons, by "cost", "filters", "field".
    """

    name: str
    path: Path
    size_bytes: int
    card: ModelCard
    cost: Cost | None = None
    layers: Sequence[LayerFilters] = ()
    stages: Sequence[StageFilters] = ()
    advice: Sequence[Advice] = ()
    filters_picture: str = ""
    field: ReceptiveField | None = None
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def advised(self) -> tuple[int, ...]:
        """t1..t5: what the filters ask for, and 1 where a stage has none."""
        asked = {each.stage: each.recommended for each in self.advice}
        names = (f"conv{number}" for number in range(1, 6))
        return tuple(asked.get(name, 1) for name in names)


def write_report(
    artifacts: Sequence[Path],
    output: Path,
    *,
    videos: Sequence[Path] = (),
    clips: int,
    projection: Projection = "orthographic",
    progress: Callable[[float, float], None] = lambda _done, _total: None,
) -> None:
    """Write the page.

    Args:
        artifacts: any artifacts of stdeploy; of those without weights that can be read, less is
            said.
        output: a name that ends in .html.
        videos: for the receptive field; none for Gaussian noise.
        clips: for the receptive field of each.
        projection: of the half sphere of figure 1; see `density`.
        progress: is told what is done and what there is in all.

    Raises:
        ArtifactError: a file is no artifact.
        DatasetError: no video can be read.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="analysis", purpose="a report")
    require("matplotlib", extra="analysis", purpose="a report")
    paths = list(dict.fromkeys(artifacts))
    per_artifact = _STEPS + clips
    sections = []
    for number, path in enumerate(paths):

        def update(done: float, before: int = number) -> None:
            progress(before * per_artifact + done, len(paths) * per_artifact)

        sections.append(_section(path, videos, clips, projection, update))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stdeploy.analysis", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        sections=sections,
        fields_picture=_fields_picture(sections),
        projection=projection,
        videos=min(clips, len(videos)),
        rules=RULES,
        version=__version__,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    with whole_file(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _section(
    path: Path,
    videos: Sequence[Path],
    clips: int,
    projection: Projection,
    progress: Callable[[float], None],
) -> Section:
    card = read_card(path)
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}

    def attempt(what: str, work: Callable[[], dict[str, Any]]) -> None:
        try:
            found.update(work())
        except (ArtifactError, SpecError, MissingExtraError) as error:
            missing[what] = str(error)

    attempt("cost", lambda: {"cost": _cost(card)})
    progress(1)
    attempt("filters", lambda: _filters(path, projection))
    progress(2)
    attempt(
        "field",
        lambda: {
            "field": field_of_file(
                path, videos, clips=clips, progress=lambda done, _: progress(2 + done)
            )
        },
    )
    progress(_STEPS + clips)
    return Section(
        name=path.name,
        path=path,
        size_bytes=path.stat().st_size,
        card=card,
        missing=missing,
        **found,
    )


def _cost(card: ModelCard) -> Cost:
    return count_flops(card.model, num_frames=card.clip.num_frames, side_px=card.clip.crop_px)


def _filters(path: Path, projection: Projection) -> dict[str, Any]:
    layers = analyse_all(read_kernels(path))
    stages = by_stage(layers)
    return {
        "layers": layers,
        "stages": stages,
        "advice": recommend(stages),
        "filters_picture": _embedded(
            lambda picture: draw_filters(layers, picture, projection=projection)
        ),
    }


def _fields_picture(sections: Sequence[Section]) -> str:
    fields = {each.name: each.field for each in sections if each.field is not None}
    if not fields:
        return ""
    return _embedded(lambda picture: draw_receptive_fields(fields, picture))


def _embedded(draw: Callable[[Path], None]) -> str:
    """A picture as a data URI."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        draw(picture)
        return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
