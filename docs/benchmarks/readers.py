"""OpenCV's frames against PyAV's, on every odd file: a table in Markdown.

    python docs/benchmarks/readers.py [FOLDER ...] > docs/benchmarks/readers.md

The odd files of the tests are written anew; FOLDERs with more videos are optional.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from stdeploy.errors import VideoError
from stdeploy.video.decoder import DecoderName
from stdeploy.video.reader import VideoReader
from tests.video.odd import ODD_VIDEOS


def read(path: Path, decoder: DecoderName) -> tuple[np.ndarray, np.ndarray] | str:
    """Timestamps and frames, or why not."""
    try:
        reader = VideoReader(path, decoder=decoder)
        _, frames = reader.gather(
            lambda timing: np.arange(len(timing.timestamps)), lambda image: image
        )
    except VideoError as error:
        return str(error)
    return reader.timing.timestamps, frames


def row(path: Path) -> str:
    """One line of the table."""
    opencv, pyav = read(path, "opencv"), read(path, "pyav")
    try:
        reader = VideoReader(path)
        reader.gather(lambda timing: np.arange(len(timing.timestamps)), lambda image: image)
        chosen = reader.decoder
    except VideoError:
        chosen = "none"
    if isinstance(opencv, str) or isinstance(pyav, str):
        counts = [f if isinstance(f, str) else str(len(f[1])) for f in (opencv, pyav)]
        counts = [text.split(";")[0].split(":")[0] for text in counts]
        return f"| {path.name} | {counts[0]} | {counts[1]} | | | | {chosen} |"
    (times, frames), (other_times, others) = opencv, pyav
    same = min(len(frames), len(others))
    difference = np.abs(frames[:same].astype(int) - others[:same]).mean(axis=(1, 2, 3)).max()
    milliseconds = 1e3 * np.abs(times[:same] - other_times[:same]).max()
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    return (
        f"| {path.name} | {len(frames)} | {len(others)} | {size} | {milliseconds:.1f} | "
        f"{difference:.2f} | {chosen} |"
    )


def main() -> None:
    """Write the table."""
    print("# OpenCV against PyAV")
    print()
    print("Written by `python docs/benchmarks/readers.py`. Sizes are upright. Timestamps: the")
    print("largest difference; pixels: the largest mean absolute difference of a frame, of 255.")
    for title, paths in _sources():
        print(f"\n## {title}\n")
        print("| file | OpenCV | PyAV | size | timestamps, ms | pixels | auto |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for path in paths:
            print(row(path), flush=True)


def _sources() -> list[tuple[str, list[Path]]]:
    folder = Path(tempfile.mkdtemp())
    for name, make in ODD_VIDEOS.items():
        make(folder / name)
    written = [folder / name for name in ODD_VIDEOS]
    given = [(Path(name).name, sorted(Path(name).iterdir())) for name in sys.argv[1:]]
    return [("Written by the tests", written), *given]


if __name__ == "__main__":
    main()
