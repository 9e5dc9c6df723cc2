"""ModelSpec and ClipSpec: what a network is, and what it wants to see. No torch here."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from stdeploy.errors import SpecError, did_you_mean

TemporalLengths = tuple[int, int, int, int, int]
ShortVideo = Literal["hold", "loop", "stretch", "error"]
# Arithmetic of an artifact's convolutions. Pixels are normalised, and classes are decided, in fp32.
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Arithmetic = Literal["fp64", "fp32", "fp16", "bf16", "int8"]
Channels = Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat], "one number for each of R, G, B"]

# Nothing that is real comes near: an uncommon file is not to take the memory of the host.
_MAX_CLIP_BYTES = 1 << 30
_MAX_TEMPORAL_LENGTH = 255
_LONGEST_VALUE = 200  # signs of a wrong value that an error shows

# What moves a terminal's cursor, ends a line, or turns the direction of what follows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The same text with its control characters written out.

    >>> printable("run\x1b[31m")
    'run\\x1b[31m'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


# Text for people, from files: it is shown as it stands.
Line = Annotated[str, AfterValidator(printable)]

# By pydantic's type of error, with what it knows about it.
_ALLOWED = {
    "bool_parsing": "true or false is allowed",
    "bool_type": "true or false is allowed",
    "dict_type": "a table is wanted",
    "finite_number": "a finite number is allowed",
    "float_parsing": "a number is allowed",
    "float_type": "a number is allowed",
    "greater_than": "more than {gt:.10g} is allowed",
    "greater_than_equal": "{ge:.10g} or more is allowed",
    "int_from_float": "a whole number is allowed",
    "int_parsing": "a whole number is allowed",
    "int_parsing_size": "a smaller number is allowed",
    "int_type": "a whole number is allowed",
    "less_than": "less than {lt:.10g} is allowed",
    "less_than_equal": "{le:.10g} or less is allowed",
    "literal_error": "{expected} is allowed",
    "model_type": "a table is wanted",
    "string_type": "text is allowed",
    "too_long": "a list of {max_length} values is wanted",
    "tuple_type": 'a list in brackets is wanted, such as [1, 2] or ["a", "b"]',
}


def check_labels(labels: Sequence[str]) -> None:
    """Refuse names of classes that cannot be told apart or cannot be shown.

    Raises:
        ValueError: two are equal, or one holds a control character.
    """
    places: dict[str, int] = {}
    for number, label in enumerate(labels):
        if label != printable(label):
            raise ValueError(f"label {number} holds a control character: {label[:80]!r}")
        if label in places:
            raise ValueError(
                f"labels {places[label]} and {number} are both {label[:80]!r}; every class has a "
                "name of its own"
            )
        places[label] = number


class Spec(BaseModel):
    """A frozen value object that goes to JSON and back and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    @classmethod
    def parse(cls, fields: object, *, source: str = "") -> Self:
        """Check plain data (a dict, as JSON or TOML gives it).

        Args:
            fields: the data.
            source: where a user wrote it, for the error. Default: the name of the class.

        Raises:
            SpecError: one line that names the field, its value and what is allowed.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise SpecError(f"{source or cls.__name__}: {_told(cls, error.errors())}") from error


def what_is_allowed(wrong: ErrorDetails) -> str:
    """What pydantic finds wrong with a value, in our words: "a whole number is allowed"."""
    allowed = _ALLOWED.get(wrong["type"])
    if allowed is None:
        return wrong["msg"].removeprefix("Value error, ")
    return allowed.format(**wrong.get("ctx", {}))


def _told(spec: type[BaseModel], found: list[ErrorDetails]) -> str:
    """The first wrong field, its value and what is allowed."""
    # A misspelt field is reported before the one that is therefore missing.
    first = min(found, key=lambda wrong: wrong["type"] != "extra_forbidden")
    place, words = first["loc"], what_is_allowed(first)
    if first["type"] == "extra_forbidden":
        words = f"there is no such field{_nearest(spec, place)}"
    place = _untagged(place)
    if first["type"] == "missing" and isinstance(place[-1], str):
        return f"{'.'.join(map(str, place))} is missing, and has no default"
    if first["type"] == "missing":  # the end of a list that is too short
        place = place[:-1]
        short = [wrong["loc"] for wrong in found if _untagged(wrong["loc"][:-1]) == place]
        missing = [int(loc[-1]) for loc in short]
        words = f"a list of {max(missing) + 1} values is wanted"
    if not place:
        return words
    return f"{printable('.'.join(map(str, place)))} = {_shown(first['input'])}: {words}"


def _untagged(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(part for part in place if part not in _TAGGED)


def _shown(value: object) -> str:
    """A wrong value as Python writes it, its middle left out where it is long."""
    try:
        text = repr(value)
    except RecursionError:
        return "(nested lists or tables)"
    if len(text) <= _LONGEST_VALUE:
        return text
    return f"{text[: _LONGEST_VALUE // 2]} ... {text[-_LONGEST_VALUE // 2 :]}"


def _nearest(spec: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """Which known field an unknown one may have meant, as the rest of a sentence."""
    *outer, name = place
    for field in outer:
        if field in _TAGGED:
            spec = _TAGGED[field]
            continue
        inner = spec.model_fields[str(field)].annotation if field in spec.model_fields else None
        # An optional table is a union with None.
        kinds = [k for k in (inner, *get_args(inner)) if isinstance(k, type)]
        spec = next((k for k in kinds if issubclass(k, BaseModel)), spec)
    return (
        did_you_mean(str(name), spec.model_fields) or f"; there are {', '.join(spec.model_fields)}"
    )


class ModelSpec(Spec):
    """The network: enough to build it again and load its weights.

    Attributes:
        architecture: a name of stdeploy.models.registry, such as "i3d-resnet50".
        temporal_lengths: t1..t5, the temporal length of the filters in conv1..conv5 (paper,
            Table 1); odd.
        branches: "multi" sums filters of every odd length up to t (eq. 2), "single" has one.
        eta: how strongly the temporal average is regularised (eq. 5), 1 (not at all) to inf
            (excluded).
        num_classes: width of the logits, K.
        width: factor on every channel count; 1 is the paper's network.
        fused: True once branches and batch norms are folded into single filters.
    """

    architecture: Line
    temporal_lengths: TemporalLengths = (1, 1, 3, 3, 5)
    branches: Literal["single", "multi"] = "multi"
    eta: float = Field(default=2.0, ge=1.0)
    num_classes: int = Field(ge=1)
    width: float = Field(default=1.0, gt=0.0, le=8.0)
    fused: bool = False

    @field_validator("temporal_lengths")
    @classmethod
    def _odd_lengths(cls, lengths: TemporalLengths) -> TemporalLengths:
        for stage, length in enumerate(lengths, start=1):
            if length < 1 or length % 2 == 0:
                raise ValueError(
                    f"t{stage} is {length}; a temporal length is odd and at least 1, "
                    "so that the filter has a centre frame"
                )
            if length > _MAX_TEMPORAL_LENGTH:
                raise ValueError(
                    f"t{stage} is {length}; at most {_MAX_TEMPORAL_LENGTH} frames are allowed"
                )
        return lengths

    @field_validator("eta")
    @classmethod
    def _eta_is_a_number(cls, eta: float) -> float:
        if math.isnan(eta):
            raise ValueError("eta is not a number; give 1 or more, or inf")
        return eta


class ForeignSpec(Spec):
    """A network of another project: its graph is all that there is, and what its owner said of it.

    Attributes:
        architecture: "foreign"; nothing of `stdeploy.models.registry` builds it.
        name: what it is called; "" where nobody said.
        num_classes: width of the logits, K.
        layout: axes of the input that it had, such as "NCTHW", or "NVCTHW" with views.
        pixel_range: of the pixels that it was given before mean and std.
        colour_order: of the channels that it was given.
        output: what it gave; an artifact gives logits always.
        per_frame: whether it gave one row for each step in time, which the artifact averages.
        compared_with: "itself": the artifact repeats the answers of the graph that it was made
            from, read as its description says; "its owner": also those that its owner gave.
    """

    architecture: Literal["foreign"] = "foreign"
    name: Line = ""
    num_classes: int = Field(ge=1)
    layout: Line
    pixel_range: Literal["0..1", "0..255"]
    colour_order: Literal["RGB", "BGR"]
    output: Literal["logits", "probabilities"]
    per_frame: bool = False
    compared_with: Literal["itself", "its owner"] = "itself"

    @property
    def fused(self) -> bool:
        """True: its graph has neither branches nor norms."""
        return True


def _kind_of_network(fields: object) -> str:
    """The tag of what describes a network, as fields or as a spec."""
    named = fields.get("architecture") if isinstance(fields, dict) else None
    return _FOREIGN if named == "foreign" or isinstance(fields, ForeignSpec) else _OURS


# pydantic puts them into the places of errors, where no user is to see them.
_OURS, _FOREIGN = "<ours>", "<foreign>"
_TAGGED: dict[int | str, type[Spec]] = {_OURS: ModelSpec, _FOREIGN: ForeignSpec}

# What a card says of its network: how to build it, or that it is another project's.
NetworkSpec = Annotated[
    Annotated[ModelSpec, Tag(_OURS)] | Annotated[ForeignSpec, Tag(_FOREIGN)],
    Discriminator(_kind_of_network),
]


class ClipSpec(Spec):
    """What the network sees: which frames, how large, with which colours.

    Frame i of a clip is shown at start + i * frame_stride / fps seconds, whatever the frame
    rate of the file.

    Attributes:
        num_frames: frames in a clip, T.
        frame_stride: every how many frames of a video of `fps` one is taken (the paper's r).
        fps: the frame rate that the training videos had, in frames per second.
        short_side_px: the shorter side of a frame is resized to this.
        crop_px: side of the centred square that is cut out; H and W of the clip.
        mean: subtracted from pixels in 0..1, for R, G, B.
        std: divides after that, for R, G, B.
        colour_order: order of the channels in memory; always RGB for now.
        views: clips whose logits are averaged for one video, evenly spaced over it.
        short_video: what a video shorter than a clip gets: "hold" repeats its last frame,
            "loop" starts again at its first, "stretch" samples what there is more densely,
            "error" refuses it.
    """

    num_frames: int = Field(default=32, ge=1, le=100_000)
    frame_stride: int = Field(default=2, ge=1, le=1_000_000)
    fps: float = Field(default=30.0, ge=1e-3, le=1000.0)
    short_side_px: int = Field(default=256, ge=8, le=8192)
    crop_px: int = Field(default=224, ge=8, le=4096)
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)
    colour_order: Literal["RGB"] = "RGB"
    views: int = Field(default=1, ge=1, le=1000)
    short_video: ShortVideo = "hold"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.crop_px > self.short_side_px:
            raise ValueError(
                f"crop_px {self.crop_px} is larger than short_side_px {self.short_side_px}; "
                "a crop lies inside the resized frame"
            )
        if math.prod(self.frames_shape) > _MAX_CLIP_BYTES:
            raise ValueError(
                f"{self.num_frames} frames of {self.crop_px} x {self.crop_px} px would be "
                f"{math.prod(self.frames_shape) / 2**30:.3g} GiB; a clip of at most "
                f"{_MAX_CLIP_BYTES / 2**30:.0f} GiB is allowed"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} holds a number that is not positive")
        return self

    @property
    def interval_seconds(self) -> float:
        """Time between two frames of a clip."""
        return self.frame_stride / self.fps

    @property
    def span_seconds(self) -> float:
        """Time from the first frame of a clip to its last."""
        return (self.num_frames - 1) * self.interval_seconds

    @property
    def frames_shape(self) -> tuple[int, int, int, int]:
        """Shape of one clip of uint8 frames: (T, H, W, 3)."""
        return self.num_frames, self.crop_px, self.crop_px, 3
