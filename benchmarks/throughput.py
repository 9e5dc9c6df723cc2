"""How near classifying many videos comes to the slower of decoding and inference alone.

    python benchmarks/throughput.py ARTIFACT VIDEO ... [--views N] [--batch N] [--rounds N]

In each round, with the same videos: decoding alone, the network alone on clips that lie ready,
all of it as `stdeploy classify` does it, and the loop that people write by hand: decode every
frame with OpenCV, choose, resize, run the network, next video.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from stdeploy.cli.console import counted
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.video.clips import ClipRequest, Clips
from stdeploy.video.sampling import frames_at, view_times
from stdeploy.video.transform import clip_frame


class NoNetwork:
    """A runtime that answers at once, so that only decoding takes time."""

    name, device, device_type, precision = "none", "nowhere", "cpu", "fp32"

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    def run(self, frames: np.ndarray) -> np.ndarray:
        """Zeros."""
        return np.zeros((len(frames), self._num_classes), np.float32)


def plain_loop(classifier: Classifier, videos: Sequence[Path]) -> None:
    """What people write: all frames of a video, then the network."""
    clip = classifier.card.clip
    for video in videos:
        capture, frames = cv2.VideoCapture(str(video)), []
        fps = capture.get(cv2.CAP_PROP_FPS)
        while True:
            ok, frame = capture.read()
            if not ok:
                break
            frames.append(frame)
        capture.release()
        timestamps = np.arange(len(frames)) / fps
        numbers = frames_at(timestamps, view_times(len(frames) / fps, clip, classifier.views))
        clips = np.stack([[clip_frame(frames[n], clip) for n in view] for view in numbers])
        for one in clips:
            classifier.runtime.run(one[None])


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--views", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    options = ClassifyOptions(views=arguments.views, batch=arguments.batch)
    with Classifier.open(arguments.artifact, options=options) as classifier:
        card = classifier.card
        decoder = Classifier(
            NoNetwork(card.model.num_classes), card, artifact_sha256="", options=options
        )
        videos = [row.video for row in decoder.classify_many(arguments.videos) if row.error is None]
        # The frames of a few videos, again and again: all of them would not fit into memory.
        ready: list[Clips] = [classifier.clips(video) for video in videos[:4]]
        request = ClipRequest(clip=card.clip, views=classifier.views)
        network = Classifier(
            classifier.runtime,
            card,
            artifact_sha256="",
            options=options,
            read=lambda video, _request: iter([ready[len(str(video)) % len(ready)]]),
        )
        del request
        given = f"{counted(len(videos), 'video')}, {counted(classifier.views, 'view')}"
        print(f"{given}, {classifier.runtime.name}")
        found: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            rates = {
                name: len(videos) / seconds(work)
                for name, work in (
                    ("decoding alone", lambda: list(decoder.classify_many(videos))),
                    ("network alone", lambda: list(network.classify_many(videos))),
                    ("together", lambda: list(classifier.classify_many(videos))),
                    ("plain loop", lambda: plain_loop(classifier, videos)),
                )
            }
            slower = min(rates["decoding alone"], rates["network alone"])
            print(", ".join(f"{name} {rate:.2f}/s" for name, rate in rates.items()), flush=True)
            found.setdefault("of the slower", []).append(rates["together"] / slower)
            found.setdefault("times the plain loop", []).append(
                rates["together"] / rates["plain loop"]
            )
    for name, ratios in found.items():
        print(f"together: {statistics.median(ratios):.2f} {name}")


if __name__ == "__main__":
    main()
