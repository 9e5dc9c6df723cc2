"""A plain network of six convolutions: small enough to train hundreds of, for experiments."""

from collections.abc import Iterator

from torch import Tensor, nn

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.base import ActionModel, AveragePoolHead, Counterpart, conv_norm, scaled

# Of the stages: channels at width 1, side of the filters, spatial stride. The last has two
# convolutions, so that t5 counts for more than the others, as in the residual networks.
_STAGES = ((16, 5, 4), (24, 3, 2), (32, 3, 1), (48, 3, 1), (64, 3, 1))


class PlainNet(ActionModel):
    """Five stages of convolutions over time and space, the first two of which shrink the picture.

    Args:
        spec: the network.
    """

    looks_ahead = ""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        channels = 3
        stages = zip(_STAGES, spec.temporal_lengths, strict=True)
        for number, ((wide, side, stride), length) in enumerate(stages, start=1):
            out = scaled(wide, spec.width)
            first = conv_norm(spec, channels, out, (length, side, side), stride=stride)
            layers = [first, nn.ReLU()]
            if number == len(_STAGES):
                layers += [conv_norm(spec, out, out, (length, side, side)), nn.ReLU()]
            self.add_module(f"conv{number}", nn.Sequential(*layers))
            channels = out
        self.head = AveragePoolHead(channels, spec.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised clips (N, 3, T, H, W) to features (N, C, T, H / 8, W / 8)."""
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"conv{number}")(x)
        return x

    def counterparts(self) -> Iterator[Counterpart]:
        """All of them: the same network of temporal length 1 is its 2D network."""
        for name, layer in self.named_modules():
            if isinstance(layer, TemporalFilter):
                yield Counterpart(layer, name, f"{name}.norm")
