"""OpenCV's frames against PyAV's, on every odd file: a table in Markdown.

    python benchmarks/readers.py [FOLDER ...] > docs/benchmarks/readers.md

The odd files of the tests are written anew; FOLDERs with more videos are optional. Where a folder
holds a truth.json, what FFmpeg's own program shows of each file is compared too: it names for each
file `frames`, `last_seconds`, `size` (width and height) and, of pictures that carry their number in
sixteen squares and four coloured corners, `orientation_as_shown` and `numbers`.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from stdeploy.errors import VideoError
from stdeploy.video.decoder import DecoderName
from stdeploy.video.reader import VideoReader
from stdeploy.video.transform import Orientation
from tests.helpers.odd_videos import ODD_VIDEOS

TRUTH = "truth.json"
SECONDS = 2e-3
# By the colours of the corners of a numbered picture: red, green, blue, white from top left to
# bottom right as it was made.
ORIENTATIONS = {
    "RGBW": "upright",
    "GRWB": "hflip",
    "BWRG": "vflip",
    "WBGR": "rot180",
    "BRWG": "rot90cw",
    "GWRB": "rot90ccw",
    "RBGW": "transpose",
    "WGBR": "transverse",
}
UNDO = {
    "hflip": Orientation(mirrored=True),
    "vflip": Orientation(flipped=True),
    "rot180": Orientation.of_quarters(2),
    "rot90cw": Orientation.of_quarters(3),
    "rot90ccw": Orientation.of_quarters(1),
    "transpose": Orientation(transposed=True),
    "transverse": Orientation(transposed=True, mirrored=True, flipped=True),
}


class Seen(NamedTuple):
    """What a reader makes of a file: times (F,), frames (F, H, W, 3), who decoded, what it said."""

    times: np.ndarray
    frames: np.ndarray
    decoder: str
    flaws: dict[str, Any]


def read(path: Path, decoder: DecoderName) -> Seen | str:
    """Timestamps and frames, or why not."""
    try:
        reader = VideoReader(path, decoder=decoder)
        _, frames = reader.gather(
            lambda timing: np.arange(len(timing.timestamps)), lambda image: image
        )
    except VideoError as error:
        return str(error)
    return Seen(reader.timing.timestamps, frames, reader.decoder, reader.flaws.to_record())


def row(path: Path, truth: dict[str, Any] | None) -> list[str]:
    """The cells of a file."""
    opencv, pyav, auto = (read(path, decoder) for decoder in ("opencv", "pyav", "auto"))
    counts = [of if isinstance(of, str) else str(len(of.frames)) for of in (opencv, pyav)]
    cells = [path.name, *(text.split(";")[0].split(":")[0] for text in counts)]
    if isinstance(opencv, str) or isinstance(pyav, str):
        cells += [""] * 3
    else:
        same = min(len(opencv.frames), len(pyav.frames))
        pixels = np.abs(opencv.frames[:same].astype(int) - pyav.frames[:same])
        seconds = np.abs(opencv.times[:same] - pyav.times[:same])
        cells += [
            f"{opencv.frames.shape[2]}x{opencv.frames.shape[1]}",
            f"{1e3 * seconds.max():.1f}",
            f"{pixels.mean(axis=(1, 2, 3)).max():.2f}",
        ]
    if isinstance(auto, str):
        return [*cells, "none", auto, "" if truth is None else "DIFFERS: not read"]
    said = "; ".join(f"{name}: {value}" for name, value in auto.flaws.items())
    return [*cells, auto.decoder, said, "" if truth is None else against(auto, truth)]


def against(seen: Seen, truth: dict[str, Any]) -> str:
    """How what was read differs from what FFmpeg shows."""
    orientation, numbers = "?", []
    if truth.get("orientation_as_shown") in ORIENTATIONS.values():
        orientation = orientation_of(seen.frames[0])
        numbers = [number_of(frame, orientation) for frame in seen.frames]
    found = {
        "frames": len(seen.frames),
        "size": [seen.frames.shape[2], seen.frames.shape[1]],
        "orientation_as_shown": orientation,
        "numbers": numbers,
    }
    if truth["orientation_as_shown"] not in ORIENTATIONS.values():
        found.pop("numbers")
        if truth["orientation_as_shown"] == "?TL/TL/TL/TL":  # a picture of one colour
            found.pop("orientation_as_shown")
    if not truth["numbers"]:
        truth = truth | {"numbers": truth["numbers_first_last"]}
        found["numbers"] = [numbers[0], numbers[-1]] if numbers else truth["numbers"]
    wrong = [name for name, value in found.items() if truth[name] != value]
    if abs(seen.times[-1] - truth["last_seconds"]) > SECONDS:
        wrong.append(f"last at {seen.times[-1]:.2f} s, not {truth['last_seconds']:.2f}")
    return f"DIFFERS: {', '.join(wrong)}" if wrong else "same"


def orientation_of(frame: np.ndarray) -> str:
    """By the corners of a numbered picture, BGR."""
    height, width = frame.shape[:2]
    colours = {"R": (0, 0, 200), "G": (0, 200, 0), "B": (255, 0, 0), "W": (255, 255, 255)}
    seen = ""
    for top in (0.04, 0.84):
        for left in (0.04, 0.88):
            rows = slice(int(height * top), int(height * (top + 0.12)))
            columns = slice(int(width * left), int(width * (left + 0.08)))
            mean = frame[rows, columns].mean(axis=(0, 1))
            seen += min(colours, key=lambda name, of=mean: np.abs(of - colours[name]).sum())
    return ORIENTATIONS.get(seen, "?")


def number_of(frame: np.ndarray, orientation: str) -> int:
    """By the sixteen squares of a numbered picture, two rows of eight, the smallest bit first."""
    if orientation in UNDO:
        frame = UNDO[orientation].apply(frame)
    height, width = frame.shape[:2]
    number = 0
    for bit in range(16):
        line, place = divmod(bit, 8)
        rows = slice(height * (28 + 24 * line) // 96, height * (44 + 24 * line) // 96)
        columns = slice(width * (20 + 16 * place) // 160, width * (28 + 16 * place) // 160)
        number |= int(frame[rows, columns].mean() > 125) << bit
    return number


def main() -> None:
    """Write the table."""
    print("# OpenCV against PyAV")
    print()
    print("Written by `python benchmarks/readers.py`. Sizes are upright. Timestamps: the")
    print("largest difference; pixels: the largest mean absolute difference of a frame, of 255.")
    print("Said: what the row of a result says about the video.")
    for title, files in _sources():
        print(f"\n## {title}\n")
        print(
            "| file | OpenCV | PyAV | size | timestamps, ms | pixels | auto | said | FFmpeg shows |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for path, truth in files:
            print(f"| {' | '.join(row(path, truth))} |", flush=True)


def _sources() -> Iterator[tuple[str, list[tuple[Path, dict[str, Any] | None]]]]:
    folder = Path(tempfile.mkdtemp())
    for name, make in ODD_VIDEOS.items():
        make(folder / name)
    yield "Written by the tests", [(folder / name, None) for name in ODD_VIDEOS]
    for given in map(Path, sys.argv[1:]):
        known = given / TRUTH
        truth = json.loads(known.read_text()) if known.exists() else {}
        files = [path for path in sorted(given.iterdir()) if path.is_file() and path != known]
        yield given.name, [(path, truth.get(path.name)) for path in files]


if __name__ == "__main__":
    main()
