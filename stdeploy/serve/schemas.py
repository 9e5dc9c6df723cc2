"""What goes over HTTP: pydantic models for OpenAPI."""

import json
from typing import Annotated, Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from stdeploy.backends.base import RunsClips
from stdeploy.inference.prediction import Prediction
from stdeploy.inference.timeline import Timeline
from stdeploy.serve.scheduling import Job
from stdeploy.serve.service import Model


def as_json(content: Any) -> bytes:
    """Compact JSON and a newline, after which the prompt of a shell stands on its own line."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class Json(JSONResponse):
    """An answer in the form of `as_json`."""

    def render(self, content: Any) -> bytes:
        """See starlette."""
        return as_json(content)


class ClassifyOptions(BaseModel):
    """What can be asked of /v1/classify, in the query or as fields of the form."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(5, ge=1, description="Labels in the answer.")
    views: int | None = Field(
        None, ge=1, le=64, description="Clips averaged. Default: the model's."
    )
    timeline: bool = Field(False, description="Also an answer over time.")
    hop_seconds: float = Field(
        1.0, ge=0.1, le=3600, description="Between the windows of a timeline; only with one."
    )
    cuts: bool = Field(
        True, description="Lay no window of a timeline across a hard cut; only with one."
    )
    stream: bool = Field(
        False,
        description="Server-sent events: `prediction`, then `window` for each window of a "
        "timeline as it comes, then `end`; or `error`.",
    )


class ModelName(BaseModel):
    """Which artifact answered."""

    name: str
    sha256: str


class LabelScore(BaseModel):
    """A label with its probability."""

    label: str
    score: float = Field(ge=0, le=1)


class TimingsMs(BaseModel):
    """Wall time of each stage, in milliseconds; of a timeline, over all its windows.

    Windows are decoded while others are in the network, so stages can add up to more than the
    total.
    """

    upload: float
    queue: float = Field(description="Waiting for its turn, a decoding process, the network.")
    decode: float
    infer: float
    total: float


# What is wrong with a video that is answered for all the same; see `Flaws`.
DamagedAfter = Annotated[
    float | None,
    Field(description="Where the frames of a file that breaks off end; it is about those before."),
]
LostFrames = Annotated[
    int, Field(description="That cannot be decoded, as far as the video was decoded.")
]
LostSpans = Annotated[
    list[tuple[float, float]],
    Field(description="Where, 20 at most: from a lost frame to the next good one."),
]
TimesEstimated = Annotated[bool, Field(description="Whether frames lack timestamps.")]
Notes = Annotated[list[str], Field(description="What else is odd about the video, in words.")]
_CUTS = "Hard cuts of the video, across which no window lies; null if they were not looked for."


class Window(BaseModel):
    """The stretch that one window of a timeline answers for, in seconds."""

    start: float
    end: float
    labels: list[str]
    scores: list[float]


class Segment(BaseModel):
    """A stretch in which a label goes on, in seconds.

    It begins where the score reaches 0.5, and ends where that of another label does, or where its
    own falls below 0.3.
    """

    label: str
    start: float
    end: float
    mean_score: float
    peak_score: float


class Segments(BaseModel):
    """What a timeline comes to."""

    duration_seconds: float
    damaged_after_seconds: DamagedAfter = None
    lost_frames: LostFrames = 0
    lost_spans_seconds: LostSpans = []
    times_estimated: TimesEstimated = False
    notes: Notes = []
    hop_seconds: float
    cuts_seconds: list[float] | None = Field(None, description=_CUTS)
    segments: list[Segment]


class TimelineAnswer(Segments):
    """An answer over time."""

    windows: list[Window]


class End(BaseModel):
    """The last event of a stream; with what its timeline comes to, if one was asked for."""

    duration_seconds: float | None = None
    damaged_after_seconds: DamagedAfter = None
    lost_frames: LostFrames = 0
    lost_spans_seconds: LostSpans = []
    times_estimated: TimesEstimated = False
    notes: Notes = []
    hop_seconds: float | None = None
    cuts_seconds: list[float] | None = Field(None, description=_CUTS)
    segments: list[Segment] | None = None
    timings_ms: TimingsMs


class Classified(BaseModel):
    """What happens in a video."""

    request_id: str
    model: ModelName
    predictions: list[LabelScore] = Field(description="Best first.")
    views: int
    view_spans_seconds: list[tuple[float, float]]
    damaged_after_seconds: DamagedAfter = None
    lost_frames: LostFrames = 0
    lost_spans_seconds: LostSpans = []
    times_estimated: TimesEstimated = False
    notes: Notes = []
    timings_ms: TimingsMs
    device: str = Field(description="Where the network really ran.")
    timeline: TimelineAnswer | None = None


class ModelInfo(BaseModel):
    """A model that answers here."""

    name: str
    sha256: str
    architecture: str
    num_classes: int
    labels: list[str]
    clip: dict[str, Any] = Field(description="Which frames the network sees.")
    backend: str
    device: str
    precision: str


class Models(BaseModel):
    """All models that answer here."""

    models: list[ModelInfo]


class Health(BaseModel):
    """The answer to a probe."""

    status: str
    reason: str | None = None


def classified(
    prediction: Prediction,
    model: Model,
    *,
    request_id: str,
    top_k: int,
    timings_ms: TimingsMs,
) -> Classified:
    """An answer from what the library found; the same numbers as `Prediction.to_record`."""
    record = prediction.to_record(top_k)
    return Classified(
        request_id=request_id,
        model=ModelName(name=model.name, sha256=model.sha256),
        predictions=record["predictions"],
        views=record["views"],
        view_spans_seconds=record["view_spans_seconds"],
        **prediction.flaws.to_record(),
        device=record["device"],
        timings_ms=timings_ms,
    )


def timings(job: Job, *, upload_seconds: float, total_seconds: float) -> TimingsMs:
    """Where the time of a request went so far."""
    return TimingsMs(
        upload=_ms(upload_seconds),
        queue=_ms(sum(job.waited.values())),
        decode=_ms(job.worked["decode"]),
        infer=_ms(job.worked["infer"]),
        total=_ms(total_seconds),
    )


def over_time(timeline: Timeline) -> TimelineAnswer:
    """A timeline as the library records it."""
    record = timeline.to_record()
    return TimelineAnswer(**{k: v for k, v in record.items() if k in TimelineAnswer.model_fields})


def model_info(model: Model, runtime: RunsClips) -> ModelInfo:
    """What clients may know of a model."""
    card = model.card
    return ModelInfo(
        name=model.name,
        sha256=model.sha256,
        architecture=card.model.architecture,
        num_classes=card.model.num_classes,
        labels=list(card.labels),
        clip=card.clip.model_dump(mode="json"),
        backend=runtime.name,
        device=runtime.device,
        precision=runtime.precision,
    )


def _ms(seconds: float) -> float:
    return round(1e3 * max(0.0, seconds), 1)
