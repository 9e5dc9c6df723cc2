"""What an importer of another project's networks says and does."""

import dataclasses
from collections.abc import Callable

from stdeploy.artifacts.layouts import Layout
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.importing.source_weights import SourceWeights, Tensors

# Mean and standard deviation of R, G, B.
Colours = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY: Colours = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
TORCHVISION: Colours = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))


@dataclasses.dataclass(frozen=True)
class Found:
    """A network of ours that computes what the weights of another project do.

    Attributes:
        spec: of the network, with one branch and eta = 1.
        tensors: its state_dict, but for counters of batches.
    """

    spec: ModelSpec
    tensors: Tensors

    @classmethod
    def of(cls, architecture: str, layout: Layout, tensors: Tensors) -> "Found":
        """What was read of a network whose classifier is among its weights.

        Args:
            architecture: one that is built from a layout.
            layout: of the network.
            tensors: its state_dict.
        """
        spec = ModelSpec(
            architecture=architecture,
            temporal_lengths=layout.temporal_lengths,
            branches="single",
            eta=1.0,
            num_classes=len(tensors["head.classifier.weight"]),
            layout=layout,
        )
        return cls(spec, tensors)


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of another project whose weights have the same names.

    Attributes:
        name: as `--as` takes it, "project/network".
        source: the project, and the licence of its code.
        assumed: what neither names nor shapes of the weights say, in words.
        clip: what the project feeds such networks; likewise assumed.
        read: reads weights, or raises MismatchError saying what does not fit.
        twins: networks that are not known here and have the same names and shapes, in words; where
            there are any, `--as` has to be given.
    """

    name: str
    source: str
    assumed: str
    clip: ClipSpec
    read: Callable[[SourceWeights], Found]
    twins: str = ""


def clip_of(
    colours: Colours,
    frames: int,
    stride: int = 1,
    *,
    fps: float = 30.0,
    sides: tuple[int, int] = (256, 224),
) -> ClipSpec:
    """What a project feeds its networks.

    Args:
        colours: mean and standard deviation of R, G, B.
        frames: in a clip.
        stride: every how many frames of a video one is taken.
        fps: of these videos, in frames per second.
        sides: the shorter side that a frame is resized to, and that of its crop, in pixels.
    """
    mean, std = colours
    return ClipSpec(
        num_frames=frames,
        frame_stride=stride,
        fps=fps,
        short_side_px=sides[0],
        crop_px=sides[1],
        mean=mean,
        std=std,
        short_video="loop",
    )
