"""ModelSpec and ClipSpec: what a network is, and what it wants to see. No torch here."""

import math
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, FiniteFloat, Tag, field_validator, model_validator

from stdeploy.artifacts.layouts import Layout
from stdeploy.artifacts.values import Line, Spec

TemporalLengths = tuple[int, int, int, int, int]
ShortVideo = Literal["hold", "loop", "stretch", "error"]
# Arithmetic of an artifact's convolutions. Pixels are normalised, and classes are decided, in fp32.
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Arithmetic = Literal["fp64", "fp32", "fp16", "bf16", "int8"]
Channels = Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat], "one number for each of R, G, B"]

# Nothing that is real comes near: an uncommon file is not to take the memory of the host.
_MAX_CLIP_BYTES = 1 << 30
_MAX_TEMPORAL_LENGTH = 255
_MAX_STATE_NUMBERS = 1 << 28


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
        layout: of an architecture that is no single network, such as "resnet3d".
        causal: whether every filter and pool looks back only, so that no feature depends on frames
            after its own; see `stdeploy.layers.temporal`.
    """

    architecture: Line
    temporal_lengths: TemporalLengths = (1, 1, 3, 3, 5)
    branches: Literal["single", "multi"] = "multi"
    eta: float = Field(default=2.0, ge=1.0)
    num_classes: int = Field(ge=1)
    width: float = Field(default=1.0, gt=0.0, le=8.0)
    fused: bool = False
    # Left out of cards that have none, which thus stay as they were before there were layouts.
    layout: Layout | None = Field(default=None, exclude_if=lambda layout: layout is None)
    # Likewise; a reader from before refuses a card that has it, instead of padding on both sides.
    causal: bool = Field(default=False, exclude_if=lambda causal: not causal)

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

    @model_validator(mode="after")
    def _lengths_are_those_of_the_layout(self) -> Self:
        if self.layout and self.temporal_lengths != self.layout.temporal_lengths:
            raise ValueError(
                f"temporal_lengths {self.temporal_lengths} beside a layout whose filters have "
                f"{self.layout.temporal_lengths}"
            )
        return self

    @field_validator("eta")
    @classmethod
    def _eta_is_a_number(cls, eta: float) -> float:
        if math.isnan(eta):
            raise ValueError("eta is not a number; give 1 or more, or inf")
        return eta


# What the input of an artifact is: frames as cameras give them, uint8 (N, T, H, W, 3); or float32
# (N, 3, T, H, W) with the same numbers, 0 to 255, for programs that hand over no other.
InputFormat = Literal["uint8-nthwc", "float-ncthw"]


# How a graph computes in time: by 3D convolutions, by 2D ones of stacked frames, see
# `stdeploy.models.planar`, or frame by frame, see `stdeploy.models.streaming`.
Form = Literal["conv3d", "planar", "stream"]


DEFAULT_WINDOW_FRAMES = 64  # that an answer about a stream averages, at the clip's interval


class StateSpec(Spec):
    """What a layer keeps of a stream from one call to the next.

    Attributes:
        name: of the layer.
        shape: of it for one stream; the streams of a call are the first axis.
        fill: the number that stands everywhere in it at the start of a stream.
        type: of its numbers, as NumPy writes it.
    """

    name: Line
    shape: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=3)]
    fill: FiniteFloat = 0.0
    type: Literal["float16", "float32", "float64", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _fits_memory(self) -> Self:
        if math.prod(self.shape) > _MAX_STATE_NUMBERS:
            raise ValueError(
                f"the state {self.name!r} of a stream has {math.prod(self.shape)} numbers; "
                f"{_MAX_STATE_NUMBERS} are allowed"
            )
        return self


class StreamSpec(Spec):
    """What goes into an artifact that takes streams, and what comes out.

    Attributes:
        frames_per_call: frames of each stream that it takes at once, K, at the clip's interval.
        window_frames: over how many frames the places in time are averaged that make an answer.
        stride_frames: frames for one place in time of its features.
        delay_places: by how many places the newest one lies behind the newest frame: after p frames
            of a stream, places up to p / stride_frames - delay_places - 1 are known.
        sliding_places: places that the average slides over, where it is one of averages.
        states: what each layer keeps, in the order of the inputs and outputs.
    """

    frames_per_call: int = Field(ge=1, le=4096)
    window_frames: int = Field(ge=1, le=1 << 20)
    stride_frames: int = Field(ge=1, le=4096)
    delay_places: int = Field(ge=0, le=1 << 20)
    sliding_places: int = Field(default=1, ge=1, le=4096)
    states: Annotated[tuple[StateSpec, ...], Field(min_length=1, max_length=4096)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, value in (
            ("frames_per_call", self.frames_per_call),
            ("window_frames", self.window_frames),
        ):
            if value % self.stride_frames:
                raise ValueError(
                    f"{name} {value} is no multiple of stride_frames {self.stride_frames}"
                )
        return self

    @property
    def places_per_call(self) -> int:
        """Places in time that are new in each call, K'."""
        return self.frames_per_call // self.stride_frames

    @property
    def calls_behind(self) -> int:
        """Calls after the last frames of a stream until their places are known."""
        return -(-self.delay_places // self.places_per_call)


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
            from, read as its description says; "its owner": also those that its owner gave; "its
            module": also those of the torch module, whose clips were normalised as the arguments
            said.
    """

    architecture: Literal["foreign"] = "foreign"
    name: Line = ""
    num_classes: int = Field(ge=1)
    layout: Line
    pixel_range: Literal["0..1", "0..255"]
    colour_order: Literal["RGB", "BGR"]
    output: Literal["logits", "probabilities"]
    per_frame: bool = False
    compared_with: Literal["itself", "its owner", "its module"] = "itself"

    @property
    def fused(self) -> bool:
        """True: its graph has neither branches nor norms."""
        return True


def _kind_of_network(fields: object) -> str:
    """The tag of what describes a network, as fields or as a spec."""
    named = fields.get("architecture") if isinstance(fields, dict) else None
    return _FOREIGN if named == "foreign" or isinstance(fields, ForeignSpec) else _OURS


# As values.py reads the places of errors.
_OURS, _FOREIGN = "<ModelSpec>", "<ForeignSpec>"

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
