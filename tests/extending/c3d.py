"""C3D (Tran et al., ICCV 2015) with norms, and an average in place of its two hidden layers.

The example of an architecture in CONTRIBUTING.md.
"""

from torch import Tensor, nn

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.models.base import ActionModel, AveragePoolHead, conv_norm, scaled

# Output channels of the convolutions of each stage.
_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class C3D(ActionModel):
    """Eight t x 3 x 3 convolutions; all pools but the first halve time as well as space."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        before = 3
        for number, length in enumerate(spec.temporal_lengths, start=1):
            layers: list[nn.Module] = []
            if number > 1:
                layers.append(nn.MaxPool3d((1 if number == 2 else 2, 2, 2)))
            for channels in (scaled(width, spec.width) for width in _STAGES[number - 1]):
                layers += [conv_norm(spec, before, channels, (length, 3, 3)), nn.ReLU(inplace=True)]
                before = channels
            self.add_module(f"conv{number}", nn.Sequential(*layers))
        self.head = AveragePoolHead(before, spec.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, C, T / 8, H / 16, W / 16)."""
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"conv{number}")(x)
        return x
