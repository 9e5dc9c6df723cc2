"""How a network of another project is laid out: what neither its name nor its keys say.

Two networks whose weights have the same names and shapes answer differently where strides, pools
or the small number in their norms differ. All of that stands here, so that a card describes the
network completely. No torch here.
"""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from stdeploy.artifacts.values import Spec

Size3 = tuple[int, int, int]
_MOST_CHANNELS, _MOST_BLOCKS, _MOST_LENGTH = 8192, 200, 255
_Count = Annotated[int, Field(ge=1, le=_MOST_CHANNELS)]
_Eps = Annotated[float, Field(gt=0, lt=1)]
# 0 stands for all there is.
_Window = Annotated[int, Field(ge=0, le=_MOST_LENGTH)]


def _check_lengths(lengths: tuple[int, ...]) -> None:
    for length in lengths:
        if length < 1 or length % 2 == 0 or length > _MOST_LENGTH:
            raise ValueError(
                f"temporal length {length}: odd numbers from 1 to {_MOST_LENGTH} are allowed"
            )


class StemLayout(Spec):
    """The first convolution, and the pool after it.

    Attributes:
        channels: that come out.
        kernel: (t, kH, kW).
        stride: (sT, sH, sW).
        middle: channels between a 1 x kH x kW and a t x 1 x 1 convolution; None for a single one.
        pool_kernel: of the max pool after it; None for no pool.
        pool_stride: likewise.
        pool_padded: by half of its kernel; else by nothing.
    """

    channels: int = Field(default=64, ge=1, le=_MOST_CHANNELS)
    kernel: Size3 = (3, 7, 7)
    stride: Size3 = (1, 2, 2)
    middle: int | None = Field(default=None, ge=1, le=_MOST_CHANNELS)
    pool_kernel: Size3 | None = (1, 3, 3)
    pool_stride: Size3 = (1, 2, 2)
    pool_padded: bool = Field(default=True, exclude_if=lambda padded: padded)

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        sizes = {"kernel": self.kernel, "stride": self.stride, "pool_stride": self.pool_stride}
        for name, size in (*sizes.items(), ("pool_kernel", self.pool_kernel or (1, 1, 1))):
            if min(size) < 1 or max(size) > _MOST_LENGTH:
                raise ValueError(f"{name} {size}: numbers from 1 to {_MOST_LENGTH} are allowed")
        return self


class StageLayout(Spec):
    """Blocks that share their number of channels.

    Attributes:
        channels: of the middle convolution of a bottleneck, of both of a basic block.
        lengths: temporal length of the filters, for each block; odd.
        stride: (sT, s) of the first block in time and in space.
        middles: channels between the two parts of a separable convolution, for each such
            convolution of each block; empty where nothing is separable.
        shortcut_middle: likewise, of a separable shortcut; None for as many as come out of it.
    """

    channels: int = Field(ge=1, le=_MOST_CHANNELS)
    lengths: tuple[int, ...] = Field(min_length=1, max_length=_MOST_BLOCKS)
    stride: tuple[int, int] = (1, 1)
    middles: tuple[tuple[int, ...], ...] = ()
    shortcut_middle: _Count | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_lengths(self.lengths)
        if min(self.stride) < 1 or max(self.stride) > _MOST_LENGTH:
            raise ValueError(f"stride {self.stride}: numbers from 1 to {_MOST_LENGTH} are allowed")
        if self.middles and len(self.middles) != len(self.lengths):
            raise ValueError(f"{len(self.middles)} middles for {len(self.lengths)} blocks")
        if any(not 1 <= each <= _MOST_CHANNELS for block in self.middles for each in block):
            raise ValueError(f"middles: numbers from 1 to {_MOST_CHANNELS} are allowed")
        return self


class ResNetLayout(Spec):
    """A 3D ResNet: stem, four stages of residual blocks, average over all, linear classifier.

    Attributes:
        kind: of layout.
        block: "basic" has two spatio-temporal convolutions, "bottleneck" 1x1x1, a middle one and
            1x1x1 to four times the channels.
        stem: the first convolution.
        stages: conv2 to conv5.
        convolution: of the blocks: "joint" is t x 3 x 3; "space-time" is 1 x 3 x 3, norm, ReLU,
            t x 1 x 1; "time-space" has these two in the other order.
        temporal: which convolution of a bottleneck extends in time: the "first" one, t x 1 x 1, or
            the "middle" one.
        shortcut: where a block changes the shape: "convolution" of 1x1x1 with a norm, "padding"
            takes every s-th pixel and fills up with channels of zeros, "separable" is a 1x1x1
            convolution that strides in space, norm, ReLU, and one that strides in time.
        depthwise: whether the middle convolution has a group for each channel.
        pool_in_time: whether a max pool halves the frames between conv2 and conv3.
        eps: added to the variance by the norms.
        middle_eps: likewise, by the norms between the two parts of a separable convolution.
        window_side: side of the squares of features that the head averages, which slide by one;
            0 averages over all at once. It matters to frames that are larger than those that the
            network was trained on.
    """

    kind: Literal["resnet"] = "resnet"
    block: Literal["basic", "bottleneck"]
    stem: StemLayout = StemLayout()
    stages: tuple[StageLayout, StageLayout, StageLayout, StageLayout]
    convolution: Literal["joint", "space-time", "time-space"] = "joint"
    temporal: Literal["first", "middle"] = "middle"
    shortcut: Literal["convolution", "padding", "separable"] = "convolution"
    depthwise: bool = False
    pool_in_time: bool = False
    eps: _Eps = 1e-5
    middle_eps: _Eps = 1e-5
    window_side: _Window = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.block == "basic" and (self.temporal == "first" or self.depthwise):
            raise ValueError("a basic block has no first convolution of its own and no groups")
        if self.convolution != "joint" and (self.temporal == "first" or self.depthwise):
            raise ValueError("a separable convolution is a middle one without groups")
        wanted = 2 if self.block == "basic" else 1
        for stage in self.stages:
            if (self.convolution != "joint") != bool(stage.middles):
                raise ValueError("middles belong to separable convolutions, and to these alone")
            if any(len(block) != wanted for block in stage.middles):
                raise ValueError(f"a {self.block} block has {wanted} separable convolutions")
        return self

    @property
    def temporal_lengths(self) -> tuple[int, int, int, int, int]:
        """t1..t5: of the stem, then the longest of each stage."""
        t2, t3, t4, t5 = (max(stage.lengths) for stage in self.stages)
        return self.stem.kernel[0], t2, t3, t4, t5


# Output channels of a mixed module: 1x1x1; 1x1x1 and t x 3 x 3; the same again; 1x1x1 after a pool.
MixedChannels = tuple[_Count, _Count, _Count, _Count, _Count, _Count]
MIXED_OF_INCEPTION: tuple[tuple[MixedChannels, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
_MixedStage = Annotated[tuple[MixedChannels, ...], Field(min_length=1, max_length=_MOST_BLOCKS)]


class InceptionLayout(Spec):
    """Inception-v1 in 3D: I3D (Carreira and Zisserman, 2017) and S3D (Xie et al., ECCV 2018).

    Attributes:
        kind: of layout.
        lengths: temporal length of the filters in conv1 to conv5; odd.
        channels: that come out of conv1, of the 1x1x1 convolution of conv2, and of its other one.
        mixed: channels of the mixed modules of conv3 to conv5, see `MixedChannels`.
        separable: whether a t x k x k convolution is 1 x k x k, norm, ReLU, t x 1 x 1.
        padding: "same" is TensorFlow's, which puts the odd zero of a strided layer behind;
            "centred" puts half of the kernel on both sides.
        window: frames of features that the head averages at a time, sliding by one; 0 for all.
        window_side: likewise, side of the squares.
        eps: added to the variance by the norms.
    """

    kind: Literal["inception"] = "inception"
    lengths: tuple[int, int, int, int, int] = (7, 3, 3, 3, 3)
    channels: tuple[_Count, _Count, _Count] = (64, 64, 192)
    mixed: tuple[_MixedStage, _MixedStage, _MixedStage] = (
        MIXED_OF_INCEPTION[0],
        MIXED_OF_INCEPTION[1],
        MIXED_OF_INCEPTION[2],
    )
    separable: bool = False
    padding: Literal["same", "centred"] = "same"
    window: _Window = 2
    window_side: _Window = 0
    eps: _Eps = 1e-3

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_lengths(self.lengths)
        return self

    @property
    def temporal_lengths(self) -> tuple[int, int, int, int, int]:
        """t1..t5."""
        return self.lengths


class X3DStageLayout(Spec):
    """Blocks of an X3D that share their number of channels; the first has stride 2 in space.

    Attributes:
        channels: that come out.
        inner: of the depthwise convolution.
        excitations: for each block, channels between the two layers of its squeeze-excitation;
            0 for a block that has none.
        length: temporal length of the depthwise filters; odd.
    """

    channels: _Count
    inner: _Count
    excitations: tuple[Annotated[int, Field(ge=0, le=_MOST_CHANNELS)], ...] = Field(
        min_length=1, max_length=_MOST_BLOCKS
    )
    length: int = 3

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_lengths((self.length,))
        return self


class X3DLayout(Spec):
    """X3D (Feichtenhofer, CVPR 2020).

    Attributes:
        kind: of layout.
        channels: of the first convolution.
        length: temporal length of the depthwise one after it; odd.
        stages: conv2 to conv5.
        projected: channels of the 1x1x1 convolution before the average.
        features: of the one after it.
        window: (t, side) of what is averaged at a time, sliding by one; 0 for all.
        eps: added to the variance by the norms.
    """

    kind: Literal["x3d"] = "x3d"
    channels: _Count = 24
    length: int = 5
    stages: tuple[X3DStageLayout, X3DStageLayout, X3DStageLayout, X3DStageLayout]
    projected: _Count = 432
    features: _Count = 2048
    window: tuple[_Window, _Window] = (0, 0)
    eps: _Eps = 1e-5

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_lengths((self.length,))
        return self

    @property
    def temporal_lengths(self) -> tuple[int, int, int, int, int]:
        """t1..t5."""
        t2, t3, t4, t5 = (stage.length for stage in self.stages)
        return self.length, t2, t3, t4, t5


class SlowFastLayout(Spec):
    """SlowFast (Feichtenhofer et al., ICCV 2019): two residual networks side by side.

    Attributes:
        kind: of layout.
        slow: the path that sees few frames.
        fast: the path that sees all of them.
        alpha: how many times as many frames the fast path sees.
        slow_frames: which these few are: "every" alpha-th, or "spread" evenly from the first to
            the last.
        lateral: channels that come to the slow path from the fast one after conv1 to conv4.
        lateral_length: temporal length of these convolutions, which stride by alpha; odd.
        lateral_relu: whether a ReLU follows them.
        window_side: side of the squares of features that are averaged at a time, sliding by one;
            0 for all.
    """

    kind: Literal["slowfast"] = "slowfast"
    slow: ResNetLayout
    fast: ResNetLayout
    alpha: int = Field(ge=1, le=_MOST_LENGTH)
    slow_frames: Literal["every", "spread"]
    lateral: tuple[_Count, _Count, _Count, _Count]
    lateral_length: int
    lateral_relu: bool
    window_side: _Window = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_lengths((self.lateral_length,))
        return self

    @property
    def temporal_lengths(self) -> tuple[int, int, int, int, int]:
        """t1..t5: of the path with the longer filters."""
        pairs = zip(self.slow.temporal_lengths, self.fast.temporal_lengths, strict=True)
        t1, t2, t3, t4, t5 = (max(pair) for pair in pairs)
        return t1, t2, t3, t4, t5


def _kind(layout: object) -> str:
    """The tag of a layout, in the brackets by which `values.py` knows tags.

    Cards that were written before there were other kinds name none.
    """
    kind = layout.get("kind") if isinstance(layout, dict) else getattr(layout, "kind", None)
    return f"<{kind or 'resnet'}>"


Layout = Annotated[
    Annotated[ResNetLayout, Tag("<resnet>")]
    | Annotated[InceptionLayout, Tag("<inception>")]
    | Annotated[X3DLayout, Tag("<x3d>")]
    | Annotated[SlowFastLayout, Tag("<slowfast>")],
    Discriminator(_kind),
]
