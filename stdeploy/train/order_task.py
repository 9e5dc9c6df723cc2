"""The order task: three shapes flash one after the other, and the class is their order.

Each clip shows three of four shapes, each for a moment at a place of its own, on textured noise
that drifts. All that a single frame tells is which shape it shows, if any; the set of the three
says which of the orders are possible, and nothing but their order in time decides among six. How
far apart the flashes are is known for every clip, so accuracy can be told by the gap.

Clips are made on the device that trains on them, fresh for every step, from a seed.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stdeploy.errors import SpecError

_SHAPE_PX = 9
_SHAPES = 4
_SHOWN = 3
ORDERS = tuple(itertools.permutations(range(_SHAPES), _SHOWN))  # by class
_DURATION = 2.0  # frames of a flash, at the rate and speed 1
_BLOCK_PX = 4  # of the texture
_DRIFT_PX = 0.3  # a frame, standard deviation
_TEXTURE, _NOISE, _BRIGHTNESS = 0.5, 1.0, 1.4  # of pixels whose standard deviation is about 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderTask:
    """What clips of the task are like.

    Attributes:
        num_frames: T.
        height_px: of a frame.
        width_px: likewise.
        gaps: least and largest number of frames from one flash to the next, at rate and speed 1.
        rates: sampling rates of eq. (8), one of which is drawn for each clip; 1 is the rate that
            is asked for in the end.
        speed: events are up to this factor faster or slower.
        camera_sigma_px: standard deviation of the velocity of eq. (9), in pixels a frame.
    """

    num_frames: int = 32
    height_px: int = 32
    width_px: int = 64
    gaps: tuple[int, int] = (2, 10)
    rates: tuple[float, ...] = (1.0,)
    speed: float = 1.0
    camera_sigma_px: float = 0.0

    def __post_init__(self) -> None:
        least, largest = self.gaps
        room = (self.num_frames - math.ceil(_DURATION)) // 2
        if not 1 <= least <= largest <= room:
            raise SpecError(
                f"gaps {self.gaps} do not fit into clips of {self.num_frames} frames; "
                f"1 <= least <= largest <= {room} is allowed"
            )
        if min(self.height_px, self.width_px) < _SHAPE_PX:
            raise SpecError(f"frames need at least {_SHAPE_PX} x {_SHAPE_PX} pixels")
        if not self.rates or min(self.rates) <= 0 or self.speed < 1:
            raise SpecError("rates have to be positive, and speed at least 1")


class OrderClips(NamedTuple):
    """Clips with what they show.

    Attributes:
        frames: normalised, (N, 3, T, H, W).
        labels: indices into ORDERS, (N,).
        gaps: frames from one flash to the next as drawn, before rate and speed, (N,).
    """

    frames: Tensor
    labels: Tensor
    gaps: Tensor


def shapes() -> Tensor:
    """The masks of the four shapes, (4, 9, 9): disc, frame, cross, triangle."""
    offset = torch.arange(_SHAPE_PX) - _SHAPE_PX // 2
    down, across = offset[:, None], offset[None, :]
    largest = torch.maximum(down.abs(), across.abs())
    disc = down**2 + across**2 <= 12
    frame = largest >= 3
    cross = (down.abs() - across.abs()).abs() <= 1  # the diagonals
    triangle = 2 * across.abs() <= down + _SHAPE_PX // 2
    return torch.stack([disc, frame, cross, triangle])


def order_clips(
    task: OrderTask, count: int, *, seed: int, device: torch.device | str = "cpu"
) -> OrderClips:
    """Make clips.

    What is drawn for a clip is the same on every device; the noise is each device's own.

    Args:
        task: what they are like.
        count: N.
        seed: of everything, below 2**63.
        device: where they are made.
    """
    stack = stacked_order_clips(task, count, seeds=(seed,), device=device)
    return OrderClips(stack.frames[0], stack.labels[0], stack.gaps[0])


def stacked_order_clips(
    task: OrderTask, count: int, *, seeds: Sequence[int], device: torch.device | str = "cpu"
) -> OrderClips:
    """Make the clips of several seeds at once, each the same as by itself.

    Args:
        task: what they are like.
        count: N, of each seed.
        seeds: S of them.
        device: where they are made.

    Returns:
        Frames (S, N, 3, T, H, W), labels and gaps (S, N).
    """
    each = [_draw(task, count, seed) for seed in seeds]
    drawn = _Drawn(*(np.concatenate(parts) for parts in zip(*each, strict=True)))
    velocity = torch.from_numpy(drawn.velocity).to(device)
    noises = [torch.Generator(device).manual_seed(int(one.noise_seed[0])) for one in each]
    frames = _background(task, velocity, noises)
    _draw_flashes(frames, drawn, task)
    shape = (len(seeds), count)
    return OrderClips(
        frames.view(*shape, *frames.shape[1:]),
        torch.from_numpy(drawn.labels).to(device).view(shape),
        torch.from_numpy(drawn.gaps).to(device).view(shape),
    )


class _Drawn(NamedTuple):
    """What is drawn for clips before anything is painted, a row for each.

    Attributes:
        labels: indices into ORDERS.
        gaps: in frames, before rate and speed.
        lasting: frames of a flash.
        apart: frames from one flash to the next.
        first: frame of the first flash.
        places: of the flashes in the room that there is, 0..1, (N, 3, 2).
        colours: of the flashes, (N, 3, 3).
        velocity: of the background, pixels a frame, (N, 2).
        noise_seed: one number.
    """

    labels: NDArray[np.int64]
    gaps: NDArray[np.int64]
    lasting: NDArray[np.int64]
    apart: NDArray[np.int64]
    first: NDArray[np.int64]
    places: NDArray[np.float64]
    colours: NDArray[np.float64]
    velocity: NDArray[np.float64]
    noise_seed: NDArray[np.int64]


def _draw(task: OrderTask, count: int, seed: int) -> _Drawn:
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(ORDERS), size=count)
    least, largest = task.gaps
    gaps = rng.integers(least, largest + 1, size=count)
    pace = rng.choice(task.rates, size=count) * task.speed ** rng.uniform(-1, 1, size=count)
    lasting = np.maximum(1, np.rint(_DURATION / pace)).astype(int)
    apart = np.clip(np.rint(gaps / pace), 1, (task.num_frames - lasting) // 2).astype(int)
    first = rng.integers(task.num_frames - 2 * apart - lasting + 1)
    places = rng.random((count, _SHOWN, 2))
    colours = rng.uniform(0.5, 1.0, (count, _SHOWN, 3))
    velocity = rng.standard_normal((count, 2)) * _DRIFT_PX
    velocity += rng.standard_normal((count, 2)) * task.camera_sigma_px
    noise_seed = rng.integers(2**62, size=1)
    return _Drawn(labels, gaps, lasting, apart, first, places, colours, velocity, noise_seed)


def _draw_flashes(frames: Tensor, drawn: _Drawn, task: OrderTask) -> None:
    """Paint the shapes on frames (N, 3, T, H, W), in place."""
    device, count = frames.device, len(frames)
    masks = shapes().to(device)
    number = torch.arange(count, device=device)[:, None, None]
    side = torch.arange(_SHAPE_PX, device=device)
    room = np.array([task.height_px, task.width_px]) - _SHAPE_PX
    for flash in range(_SHOWN):
        shape = np.array(ORDERS)[drawn.labels, flash]
        mask = masks[torch.from_numpy(shape).to(device)]
        corner = np.floor(drawn.places[:, flash] * (room + 1)).astype(int)
        rows = torch.from_numpy(corner[:, 0]).to(device)[:, None, None] + side[None, :, None]
        columns = torch.from_numpy(corner[:, 1]).to(device)[:, None, None] + side[None, None, :]
        colour = drawn.colours[:, flash] * _BRIGHTNESS
        painted = torch.from_numpy(colour).to(device, torch.float32)[:, None, None, :]
        for late in range(int(drawn.lasting.max())):
            # A flash that is over is drawn once more in its last frame.
            shown = drawn.first + flash * drawn.apart + np.minimum(late, drawn.lasting - 1)
            frame = torch.from_numpy(shown).to(device)[:, None, None]
            before = frames[number, :, frame, rows, columns]
            frames[number, :, frame, rows, columns] = torch.where(mask[..., None], painted, before)


def shapes_shown(labels: Tensor) -> Tensor:
    """Which shapes clips of these classes show, whatever their order: (N, 4), 0 or 1."""
    table = torch.zeros(len(ORDERS), _SHAPES, device=labels.device)
    for label, order in enumerate(ORDERS):
        table[label, list(order)] = 1.0
    return table[labels]


def _background(task: OrderTask, velocity: Tensor, noises: Sequence[torch.Generator]) -> Tensor:
    """Texture that moves in a straight line, and noise of every pixel: (N, 3, T, H, W).

    The texture closes in a circle, so that it moves as far as it has to. Each source of noise
    gives as many clips as the others.
    """
    device, count = velocity.device, len(velocity)
    height, width = task.height_px, task.width_px

    def normal(*shape: int) -> Tensor:
        size = (count // len(noises), *shape)
        return torch.cat([torch.randn(size, generator=each, device=device) for each in noises])

    coarse = normal(3, -(-height // _BLOCK_PX), -(-width // _BLOCK_PX))
    texture = _TEXTURE * coarse
    texture = functional.interpolate(texture, size=(height, width), mode="bilinear")
    moved = torch.arange(task.num_frames, device=device)[None, :, None] * velocity[:, None, :]
    moved = moved.round().long()
    rows = (moved[..., 0, None] + torch.arange(height, device=device)) % height
    columns = (moved[..., 1, None] + torch.arange(width, device=device)) % width
    number = torch.arange(count, device=device)[:, None, None, None]
    seen = texture.permute(0, 2, 3, 1)[number, rows[:, :, :, None], columns[:, :, None, :]]
    still = seen.permute(0, 4, 1, 2, 3)
    return still + _NOISE * normal(*still.shape[1:])
