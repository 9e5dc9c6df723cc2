"""How far borders of a timeline lie from hard cuts, where these are looked for and where not.

    python benchmarks/timeline_borders.py ARTIFACT VIDEO VIDEO ... [--seconds 10,8] [--hop SECONDS]

The first seconds of the videos are spliced with hard cuts, in the order given and the other way
round. They should show actions that the artifact tells apart.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import cv2
import numpy as np

from stdeploy.inference.classifier import Classifier
from stdeploy.inference.timeline import Timeline, TimelineOptions
from stdeploy.video.reader import VideoReader
from stdeploy.video.sampling import frames_at

_FPS, _SIZE = 25, (340, 256)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--seconds", default="10,8.4")
    parser.add_argument("--hop", type=float, default=1.0)
    arguments = parser.parse_args()
    given = [float(seconds) for seconds in arguments.seconds.split(",")]
    with tempfile.TemporaryDirectory() as folder, Classifier.open(arguments.artifact) as classifier:
        for videos in (arguments.videos, arguments.videos[::-1]):
            lengths = list(itertools.islice(itertools.cycle(given), len(videos)))
            path = Path(folder) / "spliced.mp4"
            _splice(videos, lengths, path)
            cuts = list(itertools.accumulate(lengths))[:-1]
            print(f"{', '.join(video.name for video in videos)}: cuts at {_told(cuts)}")
            for look in (False, True):
                options = TimelineOptions(hop_seconds=arguments.hop, cuts=look)
                _report(classifier.timeline(path, options), cuts)


def _splice(videos: list[Path], lengths: list[float], path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), _FPS, _SIZE)
    for video, seconds in zip(videos, lengths, strict=True):
        reader = VideoReader(video)
        moments = np.arange(round(_FPS * seconds)) / _FPS
        _, images = reader.gather(
            lambda timing, moments=moments: frames_at(timing.timestamps, moments),
            lambda image: np.asarray(cv2.resize(image, _SIZE), np.uint8),
        )
        for image in images:
            writer.write(image)
    writer.release()


def _report(timeline: Timeline, cuts: list[float]) -> None:
    if timeline.cuts_seconds is None:
        print("  cuts not looked for")
    else:
        print(f"  cuts found at {_told(timeline.cuts_seconds)}")
    for segment in timeline.segments:
        stretch = f"{segment.start:5.2f} to {segment.end:5.2f}"
        print(f"    {stretch}  {segment.mean:.3f}  {segment.label}")
    borders = [time for s in timeline.segments for time in (s.start, s.end)]
    off = [min(abs(border - cut) for border in borders) for cut in cuts] if borders else []
    print(f"    nearest borders are {_told(off)} s from the cuts; {len(timeline.cells)} windows")


def _told(times: list[float] | tuple[float, ...]) -> str:
    return ", ".join(f"{time:.2f}" for time in times) or "none"


if __name__ == "__main__":
    main()
