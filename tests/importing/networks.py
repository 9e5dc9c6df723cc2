"""Small networks of "other projects", their .onnx files, and what their own programs answer."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stdeploy.artifacts.golden import GOLDEN_SEED, golden_clip
from tests.helpers.models import randomise_norms

CLASSES, FRAMES, SIDE = 7, 8, 32
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
DESCRIPTION: dict[str, Any] = {
    "name": "tiny",
    "origin": "a test",
    "licence": "MIT",
    "labels": [f"class {number}" for number in range(CLASSES)],
    "clip": {
        "num_frames": FRAMES,
        "frame_stride": 2,
        "fps": 12,
        "short_side_px": 40,
        "crop_px": SIDE,
    },
    "input": {
        "layout": "NCTHW",
        "range": "0..1",
        "mean": MEAN,
        "std": STD,
        "colour_order": "RGB",
    },
    "output": {"gives": "logits"},
}


class TinyNetwork(nn.Module):
    """Two convolutions with norms, a norm that follows none, and a classifier.

    Args:
        layout: of its input, turned into NCTHW by itself.
        end: "logits", "softmax", "per frame" (N, T, K) or "softmax of positions", then averaged.
    """

    def __init__(self, layout: str = "NCTHW", end: str = "logits") -> None:
        super().__init__()
        self.layout, self.end = layout, end
        self.conv1 = nn.Conv3d(3, 8, 3, stride=(1, 2, 2), padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(8)
        self.conv2 = nn.Conv3d(8, 12, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm3d(12, eps=1e-3)
        self.norm3 = nn.BatchNorm3d(12)
        self.classifier = nn.Linear(12, CLASSES)

    def forward(self, clip: Tensor) -> Tensor:
        """Clips in the layout to whatever the end says."""
        if "V" in self.layout:
            clip = clip.flatten(0, 1)
        clip = clip.permute([self.layout.replace("V", "").index(axis) for axis in "NCTHW"])
        x = torch.relu(self.norm1(self.conv1(clip)))
        x = self.norm3(torch.relu(self.norm2(self.conv2(x))))
        if self.end == "per frame":
            return self._classify(x.mean((3, 4)).transpose(1, 2))
        if self.end == "softmax of positions":
            places = torch.softmax(self._classify(x.flatten(2).transpose(1, 2)), dim=-1)
            return places.mean(1)
        logits = self._classify(x.mean((2, 3, 4)).view(x.shape[0], -1))
        return torch.softmax(logits, dim=-1) if self.end == "softmax" else logits

    def _classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(features)
        return logits


class TwoPaths(nn.Module):
    """Takes every fourth frame beside all of them, as SlowFast does."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = TinyNetwork(), TinyNetwork()

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        """Both clips, (N, 3, T, H, W), to (N, K)."""
        logits: Tensor = self.slow(slow) - 0.7 * self.fast(fast)
        return logits


def built(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with random weights and norms, in evaluation mode."""
    torch.manual_seed(seed)
    return randomise_norms(make(), seed)


def write_onnx(
    model: nn.Module,
    path: Path,
    *shapes: tuple[int, ...],
    batch: int | None = None,
    legacy: bool = False,
    opset: int | None = None,
) -> Path:
    """Export with torch alone.

    Args:
        model: takes as many tensors as there are shapes.
        path: of the file.
        shapes: of the inputs, without the batch.
        batch: to fix the file at; None leaves it free.
        legacy: by the exporter that traces, which leaves norms and computed sizes in the graph.
        opset: of that exporter; None takes its default.
    """
    example = tuple(torch.randn(batch or 2, *shape) for shape in shapes)
    names = [f"input{number}" for number in range(len(shapes))]
    free = batch is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if legacy:
            torch.onnx.export(
                model,
                example,
                path,
                dynamo=False,
                opset_version=opset,
                input_names=names,
                output_names=["logits"],  # as ours: it has to give way
                do_constant_folding=False,
                training=torch.onnx.TrainingMode.EVAL,
                dynamic_axes={name: {0: "n"} for name in [*names, "logits"]} if free else None,
            )
        else:
            batches = tuple({0: torch.export.Dim("n")} for _ in shapes)
            torch.onnx.export(
                model,
                example,
                path,
                dynamo=True,
                external_data=False,
                input_names=names,
                dynamic_shapes=batches if free else None,
                verbose=False,
            )
    return path


def write_toml(path: Path, **changes: Any) -> Path:
    """A description; `input={"range": ...}` changes single fields, None takes a field out."""
    fields = {name: dict(v) if isinstance(v, dict) else v for name, v in DESCRIPTION.items()}
    for name, value in changes.items():
        if isinstance(value, dict):
            fields[name] = {**fields.get(name, {}), **value}
        else:
            fields[name] = value
    lines, tables = [], []
    for name, value in fields.items():
        if isinstance(value, dict):
            tables.append(f"[{name}]")
            tables += [f"{key} = {_toml(v)}" for key, v in value.items() if v is not None]
        elif value is not None:
            lines.append(f"{name} = {_toml(value)}")
    path.write_text("\n".join([*lines, *tables]) + "\n")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def golden_frames(count: int = 1) -> NDArray[np.uint8]:
    """Golden clips, (N, T, H, W, 3)."""
    shape = (FRAMES, SIDE, SIDE, 3)
    return np.stack([golden_clip(GOLDEN_SEED + number, shape) for number in range(count)])


def owners_input(frames: NDArray[np.uint8], *, largest: float = 1.0, bgr: bool = False) -> Tensor:
    """What the owner's program makes of frames: (N, 3, T, H, W)."""
    x = torch.from_numpy(frames).double() / 255.0 * largest
    x = x.flip(-1) if bgr else x
    mean, std = (torch.tensor(values, dtype=torch.float64) * largest for values in (MEAN, STD))
    return ((x - mean) / std).permute(0, 4, 1, 2, 3).float()


def owners_answer(model: nn.Module, *inputs: Tensor) -> NDArray[np.float64]:
    """What the owner's program answers, as torch gives it."""
    with torch.inference_mode():
        return np.asarray(model(*inputs).double().numpy())


class Transformer(nn.Module):
    """Patches of a clip, a token for the class, one layer of attention.

    Args:
        attention: without it the tokens are averaged.
    """

    def __init__(self, *, attention: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv3d(3, 16, (2, 8, 8), stride=(2, 8, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layer = layer if attention else nn.Sequential(nn.Linear(16, 16), nn.GELU())
        self.norm = nn.LayerNorm(16)
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, clip: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, K)."""
        patches = self.patches(clip).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(clip.shape[0], -1, -1), patches], dim=1)
        features = self.norm(self.layer(tokens))
        weights = torch.linspace(1, 2, features.shape[1])[None, :, None]
        logits: Tensor = self.classifier((features * weights).mean(1))
        return logits
