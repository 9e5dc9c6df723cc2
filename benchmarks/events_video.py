"""A scripted video whose actions begin and end at known times, and clips to learn them from.

Actions are those of `stdeploy.datasets.synthetic`: left to right or right to left, up or down, and
so on. Between them lie scenes in which nothing moves, which is a class of its own here.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from stdeploy.datasets.synthetic import FPS, REVERSED_PAIRS, Image, random_motion, render

NOTHING = "Nothing moving"
LABELS = (*(label for pair in REVERSED_PAIRS for label in pair), NOTHING)


@dataclasses.dataclass(frozen=True)
class Action:
    """What is seen in a part of the scripted video.

    Attributes:
        label: one of `LABELS`.
        start_seconds: when its first frame is shown.
        end_seconds: when the first frame after it is shown.
    """

    label: str
    start_seconds: float
    end_seconds: float


def motion_frames(label: str, rng: np.random.Generator) -> list[Image]:
    """One motion of a class, about 2 s at 12 frames/s, BGR."""
    if label == NOTHING:
        still = random_motion(int(rng.integers(len(REVERSED_PAIRS))), rng)
        halfway = {
            name: (np.mean(getattr(still, name)).item(),) * 2 for name in ("angle_degrees", "scale")
        }
        opacity = float(rng.integers(2))  # an empty scene, or one with an object that stays
        motion = dataclasses.replace(
            still, travel=(0.0, 0.0), opacity=(opacity, opacity), drift=(0.0, 0.0), **halfway
        )
        return list(render(motion, rng))
    pair = next(number for number, pair in enumerate(REVERSED_PAIRS) if label in pair)
    frames = list(render(random_motion(pair, rng), rng))
    return frames[:: -1 if REVERSED_PAIRS[pair].index(label) else 1]


def write_training_set(folder: Path, *, train: int, validation: int, seed: int) -> None:
    """Write a folder for each class, with videos of three motions one after the other.

    Args:
        folder: a new one.
        train: videos of each class to train on.
        validation: likewise, held out.
        seed: of everything random.
    """
    for split, (name, number) in enumerate((("train", train), ("validation", validation))):
        for place, label in enumerate(LABELS):
            inside = folder / name / label
            inside.mkdir(parents=True)
            for video in range(number):
                rng = np.random.default_rng([seed, split, place, video])
                frames = [frame for _ in range(3) for frame in motion_frames(label, rng)]
                write_video(inside / f"{video}.mp4", frames)


def scripted_frames(
    script: Sequence[tuple[str, int]], seed: int
) -> tuple[list[Image], list[Action]]:
    """Frames of a video, and what is seen when.

    Args:
        script: labels, each with the number of motions one after the other.
        seed: of everything random.
    """
    frames: list[Image] = []
    actions = []
    for place, (label, motions) in enumerate(script):
        rng = np.random.default_rng([seed, place])
        start = len(frames) / FPS
        for _ in range(motions):
            frames += motion_frames(label, rng)
        actions.append(Action(label, start, len(frames) / FPS))
    return frames, actions


def write_video(path: Path, frames: Iterable[Image]) -> None:
    """Write BGR frames as H.264, with a key frame each second; the format follows the name."""
    rate = Fraction(FPS)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "12", "bf": "0"})
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(frames):
            if number == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
