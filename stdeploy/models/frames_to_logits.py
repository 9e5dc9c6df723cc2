"""From uint8 frames to logits with torch: normalising pixels, running the network."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stdeploy.artifacts.card import GoldenClip
from stdeploy.artifacts.golden import GOLDEN_SEED, golden_clip
from stdeploy.artifacts.spec import ClipSpec, InputFormat
from stdeploy.errors import ArtifactError
from stdeploy.models.base import ActionModel


class FrameNormalisation(nn.Module):
    """Turn frames into normalised input (N, 3, T, H, W).

    x = (frames / 255 - mean) / std, per colour.

    Args:
        clip: for mean and std.
        input_format: of the frames; "float-ncthw" has them in their place already.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, clip: ClipSpec, input_format: InputFormat = "uint8-nthwc") -> None:
        super().__init__()
        self._channels_first = input_format == "float-ncthw"
        mean = torch.tensor(clip.mean, dtype=torch.float64)
        std = torch.tensor(clip.std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std)).float(), persistent=False)
        self.register_buffer("offset", (-mean / std).float(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, T, H, W, 3) uint8 to (N, 3, T, H, W) in the type of the buffers."""
        if self._channels_first:
            return frames * self.scale.view(3, 1, 1, 1) + self.offset.view(3, 1, 1, 1)
        return self._normalised(frames).permute(0, 4, 1, 2, 3)

    def of_frames(self, frames: Tensor) -> Tensor:
        """Map frames by themselves (N, H, W, 3) uint8 to (N, 3, H, W)."""
        return self._normalised(frames).permute(0, 3, 1, 2)

    def _normalised(self, frames: Tensor) -> Tensor:
        return frames.to(self.scale.dtype) * self.scale + self.offset


class FramesToLogits(nn.Module):
    """The whole graph that is exported: uint8 frames (N, T, H, W, 3) in, logits (N, K) out.

    Pixels are normalised in float32 (float64 for a float64 network), features go to the type of
    the head, so that a network whose trunk alone is in half precision works too.

    Args:
        model: any network.
        clip: how its pixels are normalised.
        input_format: what it is given; float32 (N, 3, T, H, W) of 0 to 255 for "float-ncthw".
    """

    def __init__(
        self, model: ActionModel, clip: ClipSpec, input_format: InputFormat = "uint8-nthwc"
    ) -> None:
        super().__init__()
        weight = next(model.parameters())
        self.normalise = FrameNormalisation(clip, input_format).to(weight.device)
        if weight.dtype == torch.float64:
            self.normalise.double()
        self.model = model
        self._trunk_dtype = weight.dtype
        self._head_dtype = model.head.classifier.weight.dtype

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, T, H, W, 3) uint8 to (N, K)."""
        clips = self.model.arranged(self.normalise(frames))
        features = self.model.forward_features(clips.to(self._trunk_dtype))
        logits: Tensor = self.model.head(features.to(self._head_dtype))
        return logits


def halve_trunk(model: ActionModel, dtype: torch.dtype) -> ActionModel:
    """Turn all but the head of a network to a type of half precision, in place.

    The head averages thousands of features and decides between the classes: float32 there costs
    nothing and keeps near classes apart.
    """
    exact = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    model.to(dtype)
    model.head.float().load_state_dict(exact)  # what was halved and widened again is rounded
    return model


def logits_of(model: ActionModel, clip: ClipSpec, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Classify clips in evaluation mode, in the type and on the device of the weights.

    Args:
        model: any network; its mode is put back afterwards.
        clip: how its pixels are normalised.
        frames: uint8 (N, T, H, W, 3).

    Returns:
        Logits (N, K).
    """
    graph = FramesToLogits(model, clip)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = graph(torch.from_numpy(frames).to(next(model.parameters()).device))
    finally:
        model.train(was_training)
    return np.asarray(logits.double().cpu().numpy(), dtype=np.float64)


def logits_and_magnitude(
    model: ActionModel, clip: ClipSpec, frames: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], float]:
    """Classify clips, and say how large the terms are that the classifier adds up.

    Rounding errors of a sum grow with its terms: |fl(w f + b) - (w f + b)| <= gamma_n (sum_c
    |w_c f_c| + |b|) (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). With two classes
    the terms may cancel to logits near 0, beside which the same errors look large.

    Args:
        model: any network, in evaluation mode.
        clip: how its pixels are normalised.
        frames: uint8 (N, T, H, W, 3).

    Returns:
        Logits (N, K), and the largest sum_c |w_kc f_c| + |b_k| of a clip and a class k, where f are
        the pooled features.
    """
    classifier = model.head.classifier
    features: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
    try:
        logits = logits_of(model, clip, frames)
    finally:
        hook.remove()
    with torch.inference_mode():
        terms = nn.functional.linear(
            features[0].abs(), classifier.weight.abs(), classifier.bias.abs()
        )
    return logits, float(terms.max())


def golden_of(model: ActionModel, clip: ClipSpec, seed: int = GOLDEN_SEED) -> GoldenClip:
    """What a network says to the golden clip of its own clip size.

    Raises:
        ArtifactError: numbers that are not finite.
    """
    frames = golden_clip(seed, clip.frames_shape)[None]
    logits, magnitude = logits_and_magnitude(model, clip, frames)
    if not (np.isfinite(logits).all() and np.isfinite(magnitude)):
        raise ArtifactError(
            "the network answers its golden clip with numbers that are not finite; its weights are "
            "damaged, or its training has diverged"
        )
    return GoldenClip(
        seed=seed, logits=tuple(float(value) for value in logits[0]), magnitude=magnitude
    )
