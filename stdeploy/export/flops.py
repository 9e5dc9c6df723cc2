"""What a network costs, counted by fvcore, and the paper's tables recounted.

fvcore counts one multiply-accumulate as one, evaluation-mode batch norm as two per element, and
neither ReLU nor pooling. The "GFLOPs" of the paper are these counts divided by 2^30, of the
network with single filters before fusing.
"""

import dataclasses
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from stdeploy.artifacts.spec import ForeignSpec, ModelSpec, TemporalLengths
from stdeploy.errors import SpecError
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.registry import build
from stdeploy.optional_packages import require

STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5", "head")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of one clip.

    Attributes:
        total: all that fvcore counts.
        macs: multiply-accumulates of convolutions alone.
        by_stage: total of each of STAGES.
        by_layer: total of each convolution, filter with branches, norm and classifier, in order.
        parameters: of the network.
    """

    total: int
    macs: int
    by_stage: dict[str, int]
    by_layer: dict[str, int]
    parameters: int

    @property
    def paper_gflops(self) -> float:
        """The paper's unit: total / 2^30."""
        return self.total / 2**30


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """One network of the paper's tables.

    Attributes:
        table: "Table 2" or "Table 5".
        name: as in the paper.
        architecture: of our registry.
        temporal_lengths: t1..t5.
        gflops: the paper's figure.
    """

    table: str
    name: str
    architecture: str
    temporal_lengths: TemporalLengths
    gflops: int


_TABLE_2: tuple[tuple[str, TemporalLengths, int], ...] = (
    ("orig.", (3, 3, 3, 3, 3), 240),
    ("a", (1, 3, 3, 3, 3), 233),
    ("b", (1, 1, 3, 3, 3), 212),
    ("c", (1, 1, 1, 3, 3), 184),
    ("d", (1, 1, 1, 1, 3), 143),
    ("2D CNN", (1, 1, 1, 1, 1), 122),
    ("e", (3, 1, 1, 1, 1), 130),
    ("f", (3, 3, 1, 1, 1), 151),
    ("g", (3, 3, 3, 1, 1), 178),
    ("h", (3, 3, 3, 3, 1), 219),
    ("b1", (1, 1, 3, 3, 5), 233),
    ("b2", (1, 1, 3, 5, 5), 274),
    ("b3", (1, 1, 5, 5, 5), 302),
    ("c1", (1, 1, 1, 3, 5), 205),
    ("c2", (1, 1, 1, 5, 5), 247),
)
_ORIGINAL, _OURS = (3, 3, 3, 3, 3), (1, 1, 3, 3, 5)
PAPER_TABLES: tuple[PaperRow, ...] = (
    *(PaperRow("Table 2", name, "i3d-resnet50", t, gflops) for name, t, gflops in _TABLE_2),
    PaperRow("Table 5", "I3D-R18 original", "i3d-resnet18", _ORIGINAL, 161),
    PaperRow("Table 5", "I3D-R18 ours", "i3d-resnet18", _OURS, 151),
    PaperRow("Table 5", "S3D-R50 original", "s3d-resnet50", _ORIGINAL, 148),
    PaperRow("Table 5", "S3D-R50 ours", "s3d-resnet50", _OURS, 140),
)


def count_flops(spec: ModelSpec | ForeignSpec, *, num_frames: int = 32, side_px: int = 224) -> Cost:
    """Count the cost of one clip.

    fvcore traces a real forward pass, so this takes as long as one. Making filters from their
    coefficients (eq. 6) is not counted: it does not depend on the clip.

    Args:
        spec: the network, fused or not.
        num_frames: T of the clip.
        side_px: H and W of the clip.

    Raises:
        SpecError: a network of another project, which is counted on its graph: `count_graph`.
        MissingExtraError: fvcore is not installed.
    """
    if isinstance(spec, ForeignSpec):
        raise SpecError(
            "a network of another project is not built from its description; its graph is counted "
            "by: stdeploy flops FILE.onnx"
        )
    model = build(spec).eval()
    clip = torch.zeros(1, 3, num_frames, side_px, side_px)
    with warnings.catch_warnings():
        # fvcore is built on torch.jit, which warns of its own age; the counts are exact.
        warnings.simplefilter("ignore")
        fvcore = require("fvcore.nn", extra="export", purpose="counting GFLOPs")
        analysis = fvcore.FlopCountAnalysis(model, clip)
        analysis.unsupported_ops_warnings(False)
        analysis.uncalled_modules_warnings(False)
        # A handle of None would be passed over: fvcore has a handle of its own for this op.
        analysis.set_op_handle("aten::einsum", lambda _inputs, _outputs: 0)
        by_module = analysis.by_module()
    return Cost(
        total=int(analysis.total()),
        macs=int(analysis.by_operator()["conv"]),
        by_stage={stage: int(by_module[stage]) for stage in STAGES},
        by_layer={name: int(by_module[name]) for name in _layers(model) if by_module[name]},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def variants(spec: ModelSpec) -> dict[str, ModelSpec]:
    """A network as it is trained, with single filters as the paper counts it, and fused."""
    return {
        "multi-branch": spec.model_copy(update={"branches": "multi", "fused": False}),
        "single filters": spec.model_copy(update={"branches": "single", "fused": False}),
        "fused": spec.model_copy(update={"fused": True}),
    }


def _layers(model: nn.Module) -> Iterator[str]:
    """Names of the layers that hold weights: filters whole, not their branches."""
    filters = [name for name, module in model.named_modules() if isinstance(module, TemporalFilter)]
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in filters)
        if name in filters or (isinstance(module, nn.Conv3d | nn.Linear) and not inside):
            yield name


def count_paper_tables() -> Iterator[tuple[PaperRow, Cost]]:
    """Recount every network of Tables 2 and 5 as the paper did: 3 x 32 x 224 x 224, 87 classes."""
    for row in PAPER_TABLES:
        spec = ModelSpec(
            architecture=row.architecture,
            temporal_lengths=row.temporal_lengths,
            branches="single",
            eta=1.0,
            num_classes=87,
        )
        yield row, count_flops(spec, num_frames=32, side_px=224)
