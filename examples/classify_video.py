"""Say what happens in one video.

python examples/classify_video.py MODEL.onnx VIDEO.mp4
"""

import sys

import stdeploy


def main(artifact: str, video: str) -> None:
    """Print the three best labels, and segments over time."""
    with stdeploy.Classifier.open(artifact) as classifier:
        prediction = classifier.classify(video)
        timeline = classifier.timeline(video, hop_seconds=1.0)
    for label, score in prediction.top(3):
        print(f"{score:.3f}  {label}")
    for segment in timeline.segments:
        print(f"{segment.start:7.2f} to {segment.end:7.2f} s  {segment.label}")


if __name__ == "__main__":
    main(*sys.argv[1:])
