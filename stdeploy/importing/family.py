"""What an importer of another project's networks says and does."""

import dataclasses
from collections.abc import Callable

from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.importing.source_weights import SourceWeights, Tensors


@dataclasses.dataclass(frozen=True)
class Found:
    """A network of ours that computes what the weights of another project do.

    Attributes:
        spec: of the network, with one branch and eta = 1.
        tensors: its state_dict, but for counters of batches.
    """

    spec: ModelSpec
    tensors: Tensors


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of another project whose weights have the same names.

    Attributes:
        name: as `--as` takes it, "project/network".
        source: the project, and the licence of its code.
        assumed: what neither names nor shapes of the weights say, in words.
        clip: what the project feeds such networks; likewise assumed.
        read: reads weights, or raises MismatchError saying what does not fit.
    """

    name: str
    source: str
    assumed: str
    clip: ClipSpec
    read: Callable[[SourceWeights], Found]
