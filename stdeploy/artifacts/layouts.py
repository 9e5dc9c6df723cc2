"""How a residual network of another project is laid out: what neither its name nor its keys say.

Two networks whose weights have the same names and shapes answer differently where strides, pools
or the small number in their norms differ. All of that stands here, so that a card describes the
network completely. No torch here.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from stdeploy.artifacts.values import Spec

Size3 = tuple[int, int, int]
_MOST_CHANNELS, _MOST_BLOCKS, _MOST_LENGTH = 8192, 200, 255


class StemLayout(Spec):
    """The first convolution, and the pool after it.

    Attributes:
        channels: that come out.
        kernel: (t, kH, kW).
        stride: (sT, sH, sW).
        middle: channels between a 1 x kH x kW and a t x 1 x 1 convolution; None for a single one.
        pool_kernel: of the max pool after it, padded by half of it; None for no pool.
        pool_stride: likewise.
    """

    channels: int = Field(default=64, ge=1, le=_MOST_CHANNELS)
    kernel: Size3 = (3, 7, 7)
    stride: Size3 = (1, 2, 2)
    middle: int | None = Field(default=None, ge=1, le=_MOST_CHANNELS)
    pool_kernel: Size3 | None = (1, 3, 3)
    pool_stride: Size3 = (1, 2, 2)

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
    """

    channels: int = Field(ge=1, le=_MOST_CHANNELS)
    lengths: tuple[int, ...] = Field(min_length=1, max_length=_MOST_BLOCKS)
    stride: tuple[int, int] = (1, 1)
    middles: tuple[tuple[int, ...], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for length in self.lengths:
            if length < 1 or length % 2 == 0 or length > _MOST_LENGTH:
                raise ValueError(
                    f"temporal length {length}: odd numbers from 1 to {_MOST_LENGTH} are allowed"
                )
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
    """

    block: Literal["basic", "bottleneck"]
    stem: StemLayout = StemLayout()
    stages: tuple[StageLayout, StageLayout, StageLayout, StageLayout]
    convolution: Literal["joint", "space-time", "time-space"] = "joint"
    temporal: Literal["first", "middle"] = "middle"
    shortcut: Literal["convolution", "padding", "separable"] = "convolution"
    depthwise: bool = False
    pool_in_time: bool = False
    eps: float = Field(default=1e-5, gt=0, lt=1)
    middle_eps: float = Field(default=1e-5, gt=0, lt=1)

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
