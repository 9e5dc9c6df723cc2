"""Which hard cuts are found, what is taken for one, and what looking for them costs.

    python benchmarks/cuts.py VIDEO_OR_FOLDER ... [--splices N] [--seed N]

Prints the cuts in each video that has any, to be looked at; then splices parts of the videos at
known places, and makes flashes, fades, pans and changes of light of their frames, none of which is
a cut. Last it reads the longest videos with and without looking for cuts, in turns.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import VideoError
from stdeploy.video.clips import ClipRequest, read_clips
from stdeploy.video.shots import Shown, mark_cuts, shrink
from stdeploy.video.transform import Image

_FPS = 25.0
_KEPT = 75  # frames of a video, for splicing
_SMALL_CLIP = ClipSpec(num_frames=2, frame_stride=1, fps=_FPS, short_side_px=96, crop_px=96)
_CLIP = ClipSpec(num_frames=64, frame_stride=2, fps=25.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--splices", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    paths = [p for v in arguments.videos for p in (sorted(v.rglob("*")) if v.is_dir() else [v])]
    parts, lengths, found = {}, {}, 0
    for path in filter(Path.is_file, paths):
        try:
            pictures, cuts, lengths[path] = _looked_at(path)
        except VideoError:
            continue
        found += len(cuts)
        if cuts:
            print(f"{path.name}: cuts at {', '.join(f'{cut:.2f}' for cut in cuts)} s")
        elif len(pictures) >= 50 and not _cuts(pictures):
            parts[path] = pictures
    print(f"{found} cuts in {len(lengths)} videos, {len(parts)} of the others are spliced")
    rng = random.Random(arguments.seed)
    _splice(list(parts.values()), arguments.splices, rng)
    _pretend(list(parts.values()), rng)
    _time(sorted(lengths, key=lambda path: -lengths[path])[:5])


def _looked_at(path: Path) -> tuple[list[Image], list[float], float]:
    """The first frames of a video, small; its cuts; how long it is."""
    request = ClipRequest(clip=_SMALL_CLIP, chunk_frames=25, shortest_shot_seconds=1e-3)
    kept: list[Image] = []
    shots: dict[float, None] = {}
    for clips in read_clips(path, request):
        kept += list(clips.frames[0])[: _KEPT - len(kept)]
        assert clips.shots_seconds is not None
        shots[float(clips.shots_seconds[0])] = None
        duration = clips.duration_seconds
    return kept, list(shots)[1:], duration


def _cuts(pictures: list[Image]) -> list[int]:
    shown = (Shown(n, n / _FPS, shrink(image), image) for n, image in enumerate(pictures))
    return [picture.number for picture, cut in mark_cuts(shown) if cut]


def _splice(parts: list[list[Image]], count: int, rng: random.Random) -> None:
    there = found = others = 0
    for _ in range(count):
        spliced: list[Image] = []
        places = []
        for part in rng.sample(parts, rng.choice([2, 3])):
            length = rng.randint(16, 50)
            start = rng.randint(0, len(part) - length)
            places.append(len(spliced))
            spliced += part[start : start + length]
        cuts = _cuts(spliced)
        there += len(places) - 1
        found += len(set(cuts) & set(places[1:]))
        others += len(set(cuts) - set(places))
    print(f"splices: {found} of {there} cuts found at their frame, {others} elsewhere")


def _pretend(parts: list[list[Image]], rng: random.Random) -> None:
    """What changes much, and is no cut."""
    makers: dict[str, Callable[[list[Image], list[Image]], list[Image]]] = {
        "flash of one frame": lambda a, _: _lit(a, [0.8]),
        "flash of two frames": lambda a, _: _lit(a, [0.8, 0.8]),
        "flash that dies away": lambda a, _: _lit(a, [0.8, 0.5, 0.3, 0.15, 0.1]),
        "strobe": lambda a, _: _lit(a, [0.8, 0, 0.8, 0, 0.8, 0.8, 0, 0, 0.8]),
        "light that goes on": lambda a, _: [_mixed(p, p * 0, 0.65) for p in a[:25]] + a[25:],
        "cross-fade of 0.16 s": lambda a, b: _faded(a, b, 4),
        "cross-fade of 0.6 s": lambda a, b: _faded(a, b, 15),
        "fade through black": lambda a, b: _faded(_faded(a, [a[0] * 0] * 75, 8), b, 8, at=35),
        "pan of 0.16 s": lambda a, b: _panned(a, b, 4),
        "pan of 0.4 s": lambda a, b: _panned(a, b, 10),
        "frames shown three times": lambda a, _: [a[n - n % 3] for n in range(len(a))],
    }
    for name, make in makers.items():
        pairs = [rng.sample(parts, 2) for _ in range(100)]
        taken = sum(bool(_cuts(make(one, other))) for one, other in pairs)
        print(f"{name}: {taken} of {len(pairs)} taken for a cut")


def _mixed(old: Image, new: Image, share: float) -> Image:
    return np.asarray(cv2.addWeighted(old, 1 - share, new, share, 0.0), np.uint8)


def _lit(pictures: list[Image], light: list[float]) -> list[Image]:
    lit = list(pictures)
    for number, strength in enumerate(light, start=20):
        lit[number] = _mixed(lit[number], np.full_like(lit[number], 255), strength)
    return lit


def _faded(old: list[Image], new: list[Image], length: int, *, at: int = 20) -> list[Image]:
    shares = np.clip((np.arange(len(old)) - at) / (length + 1), 0, 1)
    return [_mixed(a, b, share) for a, b, share in zip(old, new, shares, strict=False)]


def _panned(old: list[Image], new: list[Image], length: int) -> list[Image]:
    wide = np.concatenate([old[0], new[0]], axis=1)
    places = np.clip((np.arange(50) - 20) / length, 0, 1) * old[0].shape[1]
    return [wide[:, round(x) : round(x) + old[0].shape[1]] for x in places]


def _time(videos: list[Path]) -> None:
    ratios = []
    for video in videos:
        seconds = []
        for shortest in (None, 1.0, None, 1.0):
            start = time.process_time()
            request = ClipRequest(clip=_CLIP, hop_seconds=1.0, shortest_shot_seconds=shortest)
            for _ in read_clips(video, request):
                pass
            seconds.append(time.process_time() - start)
        ratios.append((seconds[1] + seconds[3]) / (seconds[0] + seconds[2]))
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(
        f"reading windows takes {statistics.median(ratios):.2f} times the processor time ({told})"
    )


if __name__ == "__main__":
    main()
