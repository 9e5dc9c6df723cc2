"""What convolutions in fp8 would change, beside int8: simulated, because no runtime here has them.

    python benchmarks/fp8.py ckpt.fused.safetensors VIDEO_OR_FOLDER...

Each convolution takes its input and its filters rounded to float8_e4m3, with one scale for the
input and one for each output channel of the filters, as matrix products of a GPU do, and computes
in float32; likewise in int8. What comes out is measured as the gate does it.
"""

import argparse
import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stdeploy.artifacts.parity import GATES, difference, scale_of
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import logits_of
from stdeploy.video.clips import middle_clips
from stdeploy.video.video_files import videos_in


def to_fp8(x: Tensor, largest: Tensor) -> Tensor:
    """To the nearest of float8_e4m3fn, whose largest is 448, scaled so that `largest` is that."""
    scale = largest.clamp_min(1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


def to_int8(x: Tensor, largest: Tensor) -> Tensor:
    """To the nearest of 255 even steps."""
    scale = largest.clamp_min(1e-12) / 127
    return (x / scale).round().clamp(-127, 127) * scale


def rounded(
    model: ActionModel, answer: Callable[[ActionModel], Any], to: Callable[[Tensor, Tensor], Tensor]
) -> ActionModel:
    """A network whose convolutions round what they take, in the ranges of the clips themselves."""
    model = copy.deepcopy(model)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv3d)]
    largest = {conv: torch.zeros(()) for conv in convs}

    def look(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(conv, nn.Conv3d)
        largest[conv] = torch.maximum(largest[conv], inputs[0].abs().max())

    hooks = [conv.register_forward_pre_hook(look) for conv in convs]
    answer(model)
    for hook in hooks:
        hook.remove()

    def shorten(seen: Tensor, _conv: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (to(inputs[0], seen),)

    for conv in convs:
        of_each = conv.weight.detach().abs().amax(dim=(1, 2, 3, 4), keepdim=True)
        conv.weight.data = to(conv.weight.detach(), of_each)
        conv.register_forward_pre_hook(functools.partial(shorten, largest[conv]))
    return model


def main() -> None:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fused", type=Path)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=10)
    arguments = parser.parse_args()
    model, card = load_model(arguments.fused)
    found: Sequence[Path] = [
        video
        for path in arguments.videos
        for video in (videos_in(path, recursive=False) if path.is_dir() else [path])
    ]
    clips = list(middle_clips(found, card.clip, count=arguments.clips))

    def answer(network: ActionModel) -> np.ndarray:
        return np.concatenate([logits_of(network, card.clip, clip[None]) for clip in clips])

    expected = answer(model)
    print(f"| {len(clips)} clips | max_error | mean_error | top1_changed | kl_nats |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, to in (("fp8 (e4m3)", to_fp8), ("int8", to_int8)):
        actual = answer(rounded(model, answer, to))
        found_error = difference(expected, actual, scale_of(expected, card.golden.magnitude))
        print(_row(name, found_error))
    print(_row("allowed of int8", GATES["int8"]))


def _row(name: str, measured: Any) -> str:
    return (
        f"| {name} | {measured.max_error:.1e} | {measured.mean_error:.1e} | "
        f"{measured.top1_changed:.0%} | {measured.kl_nats:.1e} |"
    )


if __name__ == "__main__":
    main()
