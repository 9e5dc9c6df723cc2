"""What a dense timeline costs against independent windows, and how far their answers differ.

    python benchmarks/dense.py ARTIFACT.onnx VIDEO ... [--hop-frames N] [--rounds N]

Both make a window every N sampled frames (1). Windows that lie ready are timed, without decoding;
costs are ratios within a round.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from stdeploy.backends.dense_trunk import DenseTrunk
from stdeploy.inference.classifier import Classifier
from stdeploy.inference.dense_windows import DenseWindows
from stdeploy.inference.prediction import softmax
from stdeploy.video.clips import ClipRequest, read_clips

_MOST_FRAMES = 512


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--hop-frames", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with Classifier.open(arguments.artifact) as classifier:
        card, runtime = classifier.card, classifier.runtime
        trunk = DenseTrunk.open(arguments.artifact, card, runtime)
        window, hop = card.clip.num_frames, arguments.hop_frames
        print(
            f"{arguments.artifact.name} on {runtime.name}: {window} frames of "
            f"{card.clip.crop_px} px, features see {trunk.before} frames before and "
            f"{trunk.after} behind, a window every {hop}"
        )
        same, differences, ratios, total = 0, [], [], 0
        for video in arguments.videos:
            request = ClipRequest(clip=card.clip, chunk_frames=_MOST_FRAMES)
            frames = next(read_clips(video, request)).frames[0]
            starts = range(0, len(frames) - window + 1, hop)
            if not starts:
                print(f"{video.name}: shorter than a clip")
                continue
            for _ in range(arguments.rounds):
                begin = time.perf_counter()
                alone = np.concatenate([runtime.run(frames[s : s + window][None]) for s in starts])
                middle = time.perf_counter()
                dense = DenseWindows(trunk, window=window, hop=hop)
                found = list(dense.add(frames)) + list(dense.finish())
                ratios.append((middle - begin) / (time.perf_counter() - middle))
            together = np.concatenate(found)
            for one, other in zip(alone, together, strict=True):
                same += int(one.argmax() == other.argmax())
                differences.append(float(np.abs(softmax(one) - softmax(other)).max()))
            total += len(starts)
            print(
                f"{video.name}: {len(starts)} windows, {ratios[-1]:.1f} times cheaper", flush=True
            )
    cost = statistics.median(ratios)
    print(f"cost of an independent window: {cost:.1f} times that of a dense one")
    print(
        f"same top-1 on {100 * same / total:.1f} % of {total} windows; largest difference of a "
        f"score: {statistics.mean(differences):.3f} on average, "
        f"{np.quantile(differences, 0.95):.3f} at the 95th percentile"
    )


if __name__ == "__main__":
    main()
