"""Frames from a loop of one's own.

python examples/camera_loop.py MODEL.onnx CAMERA_OR_FILE
"""

import sys
from collections import deque

import cv2
import numpy as np

import stdeploy


def main(artifact: str, source: str) -> None:
    """Classify the newest clip after every two seconds of frames."""
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
    with stdeploy.Classifier.open(artifact, views=1) as classifier:
        span = classifier.card.clip.span_seconds
        newest: deque[np.ndarray] = deque(maxlen=int(span * fps) + 1)
        number = 0
        while True:
            there, image = capture.read()
            if not there:
                break
            newest.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            number += 1
            if number % int(2 * fps) == 0:
                label, score = classifier.classify(np.stack(newest), fps=fps).top(1)[0]
                print(f"{number / fps:8.2f} s  {score:.3f}  {label}")
    capture.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
