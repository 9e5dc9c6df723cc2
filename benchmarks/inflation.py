"""How networks begin that start from 2D weights: the readings of inflation, side by side.

    python benchmarks/inflation.py [--weights FILE] [--side-px N] [--clips N] [--width N]
        [--norms fitted|still|copied]

Prints a Markdown table, of I3D-ResNet-18 before any training: where the energy of its filters lies
in time, how far its answers to a still video are from those of the 2D network, and what it sees
(section 5 of the paper). Without --weights, those of a 2D ResNet-18 are random: kernels by He,
gamma and beta uniform, and statistics of noise that went through it, so that its norms fit.

--norms replaces the running statistics that networks start with: "still" are those of a still
video even where they magnify motion, "copied" those of the 2D norms.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from stdeploy.analysis.filters import energy_per_tap
from stdeploy.analysis.receptive_field import folded, gaussian_clips, receptive_field
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.errors import SpecError
from stdeploy.fusion import filters_of
from stdeploy.layers.inflation import Inflation, inflated_statistics, temporal_factors
from stdeploy.models.base import ActionModel
from stdeploy.models.registry import build
from stdeploy.train.initialisation import start
from stdeploy.train.recipe import Recipe

ARCHITECTURE = "i3d-resnet18"
FLAT = (1, 1, 1, 1, 1)
NETWORKS = (
    ("3-3-3-3-3", "single"),
    ("1-1-3-3-5", "single"),
    ("1-1-3-3-5", "multi"),
)
ETAS = (1.0, 2.0, 4.0, math.inf)
FRAMES = 32  # of a clip whose logits are compared, as in the paper
# More than any of these networks sees, so that no field is cut off.
FIELD_FRAMES = 64
LABELS = tuple(f"class {number}" for number in range(100))


@dataclass(frozen=True)
class Measured:
    """One network before training.

    Attributes:
        energy: shares of the longest filters' squared weights in each frame, norms included, (t,).
        features: relative error of the middle frame's features on a still video.
        logits: of the logits of a clip of a still video, whose first and last frames see zeros.
        shift_frames: from the centre frame to the centre of the effective receptive field; NaN
            if it was not measured.
        spread_frames: standard deviation of that field, or NaN.
    """

    energy: np.ndarray
    features: float
    logits: float
    shift_frames: float
    spread_frames: float


@dataclass(frozen=True)
class Settings:
    """What is measured on.

    Attributes:
        weights: a file of 2D weights.
        width: factor on the channels.
        side_px: of the pictures.
        clips: of noise, for the receptive field; 0 leaves it out.
        norms: "fitted", "still" or "copied".
    """

    weights: Path
    width: float
    side_px: int
    clips: int
    norms: str

    def recipe(self, lengths: tuple[int, ...], branches: str, eta: float, reading: str) -> Recipe:
        """A recipe that starts a network from the weights."""
        model = {
            "architecture": ARCHITECTURE,
            "temporal_lengths": lengths,
            "branches": branches,
            "eta": eta,
            "width": self.width,
        }
        size = {"short_side_px": self.side_px, "crop_px": self.side_px, "num_frames": FIELD_FRAMES}
        return Recipe.parse(
            {
                "model": model,
                "clip": size,
                "start": {"weights": str(self.weights), "inflation": reading},
                "optimisation": {"epochs": 1, "batch_size": 1, "learning_rate": 0.01},
            }
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a 2D ResNet-18, such as torchvision's .pth")
    parser.add_argument("--side-px", type=int, default=64)
    parser.add_argument("--clips", type=int, default=4, help="0: no receptive fields")
    parser.add_argument("--norms", choices=("fitted", "still", "copied"), default="fitted")
    parser.add_argument("--width", type=float, default=1.0, help="of random weights")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights
        if weights is None:
            weights = Path(folder) / "random-resnet18.pth"
            torch.save(random_weights(arguments.width, arguments.side_px), weights)
        width = 1.0 if arguments.weights else arguments.width
        settings = Settings(weights, width, arguments.side_px, arguments.clips, arguments.norms)
        for line in table(settings):
            print(line, flush=True)


def random_weights(width: float, side_px: int) -> dict[str, Tensor]:
    """A 2D ResNet-18 by the names of torchvision."""
    torch.manual_seed(0)
    spec = ModelSpec(architecture=ARCHITECTURE, temporal_lengths=FLAT, num_classes=1, width=width)
    model = build(spec).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for _ in range(4):
            model.forward_features(torch.randn(8, 3, 1, side_px, side_px))
    tensors: dict[str, Tensor] = {}
    for layer, conv, norm in model.counterparts():
        (branch,) = layer.typed_branches()
        tensors[f"{conv}.weight"] = branch.coefficients.detach()[:, :, 0]
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{name}"] = getattr(branch.norm, name).detach()
    return tensors


def table(settings: Settings) -> Iterator[str]:
    """The lines of the table, one after the other as they are measured."""
    yield (
        "| t1..t5, branches | eta | inflation | energy in each frame, % | features | logits "
        "| centre, frames | sd, frames |"
    )
    yield "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |"
    flat = start(settings.recipe(FLAT, "single", 1.0, "filter"), LABELS).model.eval()
    for lengths, branches in NETWORKS:
        for eta in ETAS:
            for reading in get_args(Inflation):
                begin = f"| {lengths} {branches} | {eta:g} | {reading} |"
                if not defined(eta, reading):
                    yield f"{begin} refused | | | | |"
                    continue
                sizes = tuple(int(length) for length in lengths.split("-"))
                recipe = settings.recipe(sizes, branches, eta, reading)
                model = start(recipe, LABELS).model.eval()
                if settings.norms != "fitted":
                    replace_statistics(model, reading, settings)
                found = measure(model, flat, recipe, settings)
                field = f"{found.shift_frames:+.2f} | {found.spread_frames:.2f}"
                if math.isnan(found.shift_frames):
                    field = " | "
                energy = " ".join(f"{100 * share:.1f}" for share in found.energy)
                yield (f"{begin} {energy} | {found.features:.1e} | {found.logits:.2f} | {field} |")


def defined(eta: float, reading: Inflation) -> bool:
    """Whether a reading can be had with an eta."""
    try:
        temporal_factors(3, eta, reading)
    except SpecError:
        return False
    return True


@torch.no_grad()
def replace_statistics(model: ActionModel, reading: Inflation, settings: Settings) -> None:
    """Give norms the statistics of a still video, or those of the 2D norms, in place."""
    tensors = torch.load(settings.weights, weights_only=True)
    for layer, _, norm in model.counterparts():
        of_2d = [tensors[f"{norm}.{name}"] for name in ("running_mean", "running_var")]
        for branch in layer.typed_branches():
            tau = branch.coefficients.shape[2]
            copied = settings.norms == "copied"
            factors = torch.ones(1) if copied else temporal_factors(tau, branch.eta, reading)
            mean, variance = inflated_statistics(*of_2d, factors, branch.norm.eps)
            branch.norm.running_mean.copy_(mean)
            branch.norm.running_var.copy_(variance)


def measure(model: ActionModel, flat: ActionModel, recipe: Recipe, settings: Settings) -> Measured:
    """All of a row.

    Args:
        model: started from 2D weights; it gets the classifier of `flat`.
        flat: the 2D network, as a 3D one whose filters see one frame.
        recipe: of the model.
        settings: see there.
    """
    model.head.load_state_dict(flat.head.state_dict())
    clip = recipe.clip_spec()
    single = folded(model)
    generator = torch.Generator().manual_seed(1)
    picture = torch.randn(1, 3, 1, clip.crop_px, clip.crop_px, generator=generator)
    with torch.inference_mode():
        features = single.forward_features(picture.expand(-1, -1, FIELD_FRAMES, -1, -1))
        logits = single(picture.expand(-1, -1, FRAMES, -1, -1))
        still = flat.forward_features(picture)
        wanted = flat(picture)
    shift = spread = math.nan
    if settings.clips:
        field = receptive_field(single, clip, gaussian_clips(clip, settings.clips))
        shift = float(field.over_time @ (np.arange(FIELD_FRAMES) - FIELD_FRAMES // 2))
        spread = field.spread_frames
    longest = max(model.spec.temporal_lengths)
    names = [name for name, layer in filters_of(model) if layer.kernel_size[0] == longest]
    kernels = [single.get_parameter(f"{name}.weight").detach().numpy() for name in names]
    return Measured(
        energy=np.mean([energy_per_tap(kernel) for kernel in kernels], axis=0),
        features=_relative(features[:, :, FIELD_FRAMES // 2], still[:, :, 0]),
        logits=_relative(logits, wanted),
        shift_frames=shift,
        spread_frames=spread,
    )


def _relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


if __name__ == "__main__":
    main()
