"""A network of one's own, with branches, folded and compared.

python examples/custom_architecture.py
"""

import torch
from torch import Tensor, nn

import stdeploy
from stdeploy.fusion import fuse_model
from stdeploy.models.base import ActionModel, AveragePoolHead, conv_norm


class TwoLayers(ActionModel):
    """Two convolutions with temporal branches, then the mean over time and space."""

    def __init__(self, spec: stdeploy.ModelSpec) -> None:
        super().__init__(spec)
        self.conv1 = nn.Sequential(conv_norm(spec, 3, 8, (3, 3, 3)), nn.ReLU())
        self.conv2 = nn.Sequential(conv_norm(spec, 8, 16, (5, 3, 3)), nn.ReLU())
        self.head = AveragePoolHead(16, spec.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, 16, T, H, W)."""
        features: Tensor = self.conv2(self.conv1(x))
        return features


def main() -> None:
    """Fold it and print how much its logits change; see CONTRIBUTING.md to register it."""
    model = TwoLayers(stdeploy.ModelSpec(architecture="two-layers", num_classes=5)).eval()
    x = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64)
    fused = fuse_model(model)
    before, after = (sum(p.numel() for p in each.parameters()) for each in (model, fused))
    with torch.inference_mode():
        error = (model.double()(x) - fused.double()(x)).abs().max()
    print(f"{before} -> {after} parameters, largest difference {error:.1e}")


if __name__ == "__main__":
    main()
