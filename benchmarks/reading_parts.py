"""What one processor spends on reading the clips of small videos, part by part.

    python benchmarks/reading_parts.py VIDEO ... [--views N] [--rounds N]

Times are of the processor, with one thread for decoding, and those of the fastest round.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.video import clips, opencv, reader, transform

CLIP = ClipSpec(num_frames=64, frame_stride=1, fps=25.0, short_side_px=256, crop_px=224)


class Parts:
    """Seconds and calls of functions, by the name of the part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, counted; generators and context managers up to what they give."""

        def call(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.seconds[part] += time.process_time() - start
                self.calls[part] += 1

        return call


def watch(parts: Parts) -> None:
    """Count what reading calls."""
    kinds: list[tuple[str, Any, str]] = [
        ("index", reader.VideoReader, "_read_index"),
        ("decoding", opencv._Stream, "grab"),
        ("colours", opencv._Stream, "image"),
        ("comparing", reader.VideoReader, "_doubts"),
        ("resizing", transform, "resize_short_side"),
        ("opening", opencv.cv2, "VideoCapture"),
    ]
    for part, owner, name in kinds:
        setattr(owner, name, parts.timed(part, getattr(owner, name)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    opencv.limit_threads(1)
    best: tuple[float, Parts] | None = None
    parts = Parts()
    watch(parts)
    for _ in range(arguments.rounds):
        parts.seconds.clear()
        parts.calls.clear()
        start = time.process_time()
        for video in arguments.videos:
            clips.read_views(video, CLIP, arguments.views)
        total = time.process_time() - start
        if best is None or total < best[0]:
            found = Parts()
            found.seconds, found.calls = Counter(parts.seconds), Counter(parts.calls)
            best = total, found
    assert best is not None
    total, parts = best
    videos, frames = len(arguments.videos), parts.calls["colours"]
    print(f"{videos} videos, {parts.calls['decoding']} frames decoded, {frames} wanted")
    print(f"{1e3 * total / videos:.1f} ms a video, {1e6 * total / frames:.0f} us a wanted frame")
    print("\n| part | of the time | us a call | calls |\n| --- | --- | --- | --- |")
    parts.seconds["the rest"] = total - sum(parts.seconds.values())
    parts.calls["the rest"] = frames
    for part, seconds in parts.seconds.most_common():
        calls = parts.calls[part]
        print(f"| {part} | {seconds / total:.1%} | {1e6 * seconds / calls:.0f} | {calls} |")


if __name__ == "__main__":
    main()
