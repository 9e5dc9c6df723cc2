"""A small synthetic data set whose classes differ only in the order of time.

Classes come in pairs, and a video of the second class of a pair is a video of the first played
backwards: every single frame is as likely in the one as in the other. A network without
temporal filters can tell the pairs apart, but not the two classes inside a pair.

The files have the layout of Something-Something-v2: labels.json, train.json, validation.json
and a folder of .webm videos.
"""

import concurrent.futures
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import filelock
import numpy as np
from numpy.typing import NDArray

from stdeploy.errors import DatasetError
from stdeploy.video.opencv import apply_opencv_settings

Image = NDArray[np.uint8]

_MARKER = "synthetic.json"
VIDEO_FOLDER = "20bn-something-something-v2"
REVERSED_PAIRS: tuple[tuple[str, str], ...] = (
    ("Moving something from left to right", "Moving something from right to left"),
    ("Moving something up", "Moving something down"),
    ("Moving something closer to the camera", "Moving something away from the camera"),
    ("Turning something clockwise", "Turning something counter-clockwise"),
    ("Something appearing", "Something vanishing"),
)
FPS = 12.0
_WIDTH_PX, _HEIGHT_PX = 80, 72
_OBJECTS = ("box", "ball", "leaf", "brick", "coin", "stone")


@dataclasses.dataclass(frozen=True)
class Motion:
    """How one video moves; positions in pixels, times as fractions 0..1 of the motion.

    Attributes:
        centre: of the object when halfway.
        travel: the object moves from centre - travel / 2 to centre + travel / 2.
        angle_degrees: start and end, clockwise as seen.
        scale: start and end, as a factor.
        opacity: start and end, 0..1.
        drift: of the background over the whole video.
        camera: how far everything moves over the whole video, because the camera does.
        num_frames: length of the video.
        rest: fraction of the video during which nothing moves, before and after.
    """

    centre: tuple[float, float]
    travel: tuple[float, float]
    angle_degrees: tuple[float, float]
    scale: tuple[float, float]
    opacity: tuple[float, float]
    drift: tuple[float, float]
    camera: tuple[float, float]
    num_frames: int
    rest: tuple[float, float]

    def progress(self, frame: int) -> float:
        """How much of the motion is done at a frame, 0..1."""
        time = frame / (self.num_frames - 1)
        before, after = self.rest
        return float(np.clip((time - before) / (1.0 - before - after), 0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """What validation videos have that training videos do not.

    Attributes:
        camera_px: largest shift of the camera over a video, in each direction.
        speed: actions are up to this factor faster, or slower, than in training.
    """

    camera_px: float = 0.0
    speed: float = 1.0


def make_dataset(
    folder: Path,
    *,
    train: int,
    validation: int,
    seed: int,
    perturbation: Perturbation = Perturbation(),
) -> None:
    """Write the data set, on all processor cores; the same one is not written twice.

    Processes of one run may all ask for it at once: the first writes, the others wait.

    Args:
        folder: where to write; new, empty, or holding an earlier synthetic set.
        train: videos in train.json.
        validation: videos in validation.json.
        seed: of everything random.
        perturbation: of the validation videos.

    Raises:
        DatasetError: the folder holds something else, or a video cannot be encoded.
    """
    made_from: dict[str, object] = {
        "train": train,
        "validation": validation,
        "seed": seed,
        "version": 3,
    }
    if perturbation != Perturbation():
        made_from["perturbation"] = dataclasses.asdict(perturbation)
    if _is_made(folder, made_from):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".making-{folder.name}.lock")
    with filelock.FileLock(lock):
        if not _is_made(folder, made_from):
            _make(folder, train, validation, seed, perturbation, made_from)
        lock.unlink(missing_ok=True)  # whoever waits for it, or makes another, finds the set


def _is_made(folder: Path, made_from: Mapping[str, object]) -> bool:
    """Whether the folder holds exactly this set.

    Raises:
        DatasetError: it holds something else.
    """
    marker = folder / _MARKER
    if marker.is_file() and marker.read_text() == json.dumps(made_from):
        return True
    if folder.exists() and any(folder.iterdir()):
        raise DatasetError(
            f"{str(folder)!r} holds other files, or a set made with other settings; move it away "
            "or delete it, and the synthetic data set is made there"
        )
    return False


def _make(
    folder: Path,
    train: int,
    validation: int,
    seed: int,
    perturbation: Perturbation,
    made_from: Mapping[str, object],
) -> None:
    # Made beside it and renamed at the end, so that an interrupted run leaves nothing half done.
    making = folder.with_name(f".making-{folder.name}")
    shutil.rmtree(making, ignore_errors=True)
    videos = making / VIDEO_FOLDER
    videos.mkdir(parents=True)
    plan = [_entry(number) for number in range(1, train + validation + 1)]
    write = functools.partial(_write_video, videos, seed, train, perturbation)
    # New processes, not forks: the parent may hold threads of torch. Their standard error is
    # closed, because OpenCV's encoder reports a harmless tag for every .webm.
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=os.cpu_count(),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_close_stderr,
    ) as pool:
        list(pool.map(write, range(1, len(plan) + 1), chunksize=8))
    splits = {"train": plan[:train], "validation": plan[train:]}
    for name, entries in splits.items():
        (making / f"{name}.json").write_text(json.dumps(entries, indent=1))
    labels = [label for pair in REVERSED_PAIRS for label in pair]
    (making / "labels.json").write_text(
        json.dumps({label: str(index) for index, label in enumerate(labels)}, indent=1)
    )
    (making / "reversed_pairs.json").write_text(json.dumps(REVERSED_PAIRS, indent=1))
    (making / _MARKER).write_text(json.dumps(made_from))
    making.replace(folder)


def _class_of(number: int) -> tuple[int, bool]:
    """Pair and direction of a video; neighbours share a pair and differ in direction."""
    return (number - 1) // 2 % len(REVERSED_PAIRS), (number - 1) % 2 == 1


def _entry(number: int) -> dict[str, object]:
    pair, backwards = _class_of(number)
    label, thing = REVERSED_PAIRS[pair][backwards], _OBJECTS[number % len(_OBJECTS)]
    return {
        "id": str(number),
        "label": re.sub("something", f"a {thing}", label, flags=re.IGNORECASE),
        "template": re.sub("(something)", r"[\1]", label, flags=re.IGNORECASE),
        "placeholders": [f"a {thing}"],
    }


def _write_video(
    folder: Path, seed: int, train: int, perturbation: Perturbation, number: int
) -> None:
    pair, backwards = _class_of(number)
    rng = np.random.default_rng([seed, number])
    motion = random_motion(pair, rng)
    if number > train:
        # Of its own, so that a perturbed video is otherwise the one that it would have been.
        motion = perturbed(motion, perturbation, np.random.default_rng([seed, number, 1]))
    frames = list(render(motion, rng))
    _write_webm(folder / f"{number}.webm", frames[::-1] if backwards else frames)


def _close_stderr() -> None:
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a descriptor is needed
        os.dup2(nowhere.fileno(), 2)


def random_motion(pair: int, rng: np.random.Generator) -> Motion:
    """Draw a motion of the first class of a pair."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    size, tilt = between(0.75, 1.1), between(-25, 25)
    travel, angle, scale, opacity = (0.0, 0.0), (tilt, tilt), (size, size), (1.0, 1.0)
    if pair == 0:
        travel = (between(28, 50), between(-6, 6))
    elif pair == 1:
        travel = (between(-6, 6), -between(26, 48))
    elif pair == 2:
        scale = (size * between(0.45, 0.65), size * between(1.25, 1.6))
    elif pair == 3:
        angle = (tilt - between(50, 90), tilt + between(50, 90))
    else:
        opacity = (0.0, 1.0)
    return Motion(
        centre=(_WIDTH_PX / 2 + between(-10, 10), _HEIGHT_PX / 2 + between(-8, 8)),
        travel=travel,
        angle_degrees=angle,
        scale=scale,
        opacity=opacity,
        drift=(between(-8, 8), between(-8, 8)),
        camera=(0.0, 0.0),
        num_frames=int(rng.integers(22, 31)),
        rest=(between(0.0, 0.12), between(0.0, 0.12)),
    )


def perturbed(motion: Motion, by: Perturbation, rng: np.random.Generator) -> Motion:
    """The motion under another camera and at another speed."""
    across, down, exponent = rng.uniform(-1.0, 1.0, size=3)
    return dataclasses.replace(
        motion,
        camera=(float(across) * by.camera_px, float(down) * by.camera_px),
        num_frames=max(6, round(motion.num_frames * by.speed ** float(exponent))),
    )


def render(motion: Motion, rng: np.random.Generator) -> Iterator[Image]:
    """Draw a textured object that moves over a textured background; yields BGR frames."""
    margin = 12 + math.ceil(max(abs(shift) for shift in motion.camera) / 2)
    background = _texture(rng, _WIDTH_PX + 2 * margin, _HEIGHT_PX + 2 * margin, contrast=60)
    patch, mask = _object(rng)
    for frame in range(motion.num_frames):
        done = motion.progress(frame)
        time = frame / (motion.num_frames - 1) - 0.5
        camera = (motion.camera[0] * time, motion.camera[1] * time)
        shift = (
            -margin + motion.drift[0] * time + camera[0],
            -margin + motion.drift[1] * time + camera[1],
        )
        canvas = cv2.warpAffine(
            background,
            np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]]),
            (_WIDTH_PX, _HEIGHT_PX),
            flags=cv2.INTER_LINEAR,
        )
        place = _placement(motion, done, patch.shape[0])
        place[:, 2] += camera
        size = (_WIDTH_PX, _HEIGHT_PX)
        alpha = cv2.warpAffine(mask, place, size, flags=cv2.INTER_LINEAR)[..., None]
        alpha = alpha * _between(motion.opacity, done)
        drawn = cv2.warpAffine(patch, place, size, flags=cv2.INTER_LINEAR)
        noise = rng.normal(0.0, 1.0, canvas.shape)
        mixed = canvas * (1.0 - alpha) + drawn * alpha + noise
        yield np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _between(ends: tuple[float, float], done: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * done


def _placement(motion: Motion, done: float, side_px: int) -> NDArray[np.float64]:
    """Affine map from the object's patch to the frame, (2, 3)."""
    # OpenCV turns counter-clockwise for positive angles.
    place = cv2.getRotationMatrix2D(
        (side_px / 2, side_px / 2),
        -_between(motion.angle_degrees, done),
        _between(motion.scale, done),
    )
    for axis in (0, 1):
        place[axis, 2] += motion.centre[axis] - side_px / 2 + motion.travel[axis] * (done - 0.5)
    return np.asarray(place, dtype=np.float64)


def _texture(rng: np.random.Generator, width: int, height: int, contrast: float) -> Image:
    """Coloured noise at two scales around a random colour, (height, width, 3)."""
    texture = np.full((height, width, 3), rng.uniform(60, 195, 3))
    for cell in (8, 24):
        grid = rng.normal(0, contrast / 2, (height // cell + 2, width // cell + 2, 3))
        texture += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(texture, 0, 255), dtype=np.uint8)


def _object(rng: np.random.Generator) -> tuple[Image, NDArray[np.float32]]:
    """A patch (S, S, 3) and its mask (S, S) of an elongated shape without mirror symmetry."""
    side = 44
    patch = _texture(rng, side, side, contrast=50)
    stripe = int(rng.integers(0, 3))
    patch[:, :, stripe] = np.where(np.arange(side) // 6 % 2 == 0, 235, 30)[None, :]
    mask = np.zeros((side, side), np.float32)
    half_length, half_height = float(rng.uniform(15, 19)), float(rng.uniform(7, 11))
    centre = (side / 2, side / 2)
    if rng.random() < 0.5:
        cv2.ellipse(mask, (centre, (2 * half_length, 2 * half_height), 0.0), 1.0, -1)
    else:
        corners = cv2.boxPoints((centre, (2 * half_length, 2 * half_height), 0.0))
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1.0)
    return patch, mask


def _write_webm(path: Path, frames: list[Image]) -> None:
    height, width = frames[0].shape[:2]
    apply_opencv_settings()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), FPS, (width, height))
    if not writer.isOpened():
        raise DatasetError(
            f"this OpenCV cannot encode {path.name!r}; install opencv-python-headless"
        )
    for frame in frames:
        writer.write(frame)
    writer.release()
