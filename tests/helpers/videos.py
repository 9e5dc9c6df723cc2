"""Small real video files for tests, written by OpenCV's encoders."""

import struct
from pathlib import Path

import cv2
import numpy as np

from stdeploy.artifacts.golden import golden_clip

# Matrices of a track header: 16.16 fixed point, the last column 2.30 (ISO 14496-12, 8.3.2).
ROTATIONS = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


def numbered_frames(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames of eight upright bars, black for 0 and white for 1: their number in binary."""
    frames = []
    for number in range(count):
        bits = [number >> bit & 1 for bit in range(7, -1, -1)]
        bars = np.repeat(np.array(bits, np.uint8) * 180 + 30, width // 8)
        frames.append(np.broadcast_to(bars[None, :, None], (height, width, 3)).copy())
    return frames


def number_of(frame: np.ndarray) -> int:
    """The inverse of `numbered_frames`, after a lossy codec."""
    width = frame.shape[1] // 8
    bars = [frame[:, i * width + 2 : (i + 1) * width - 2].mean() > 128 for i in range(8)]
    return sum(bar << bit for bar, bit in zip(bars, range(7, -1, -1), strict=True))


def write_video(
    path: Path, frames: list[np.ndarray], fps: float = 10.0, codec: str = "mp4v"
) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def set_rotation(path: Path, degrees: int) -> None:
    """Give the first track of an .mp4 a display rotation, clockwise."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in ROTATIONS[degrees])
    content[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def write_golden_videos(folder: Path, *, count: int, first_seed: int = 0) -> Path:
    """Videos with the statistics of golden clips, for calibrating random networks on."""
    folder.mkdir(exist_ok=True)
    for seed in range(first_seed, first_seed + count):
        frames = golden_clip(seed, (20, 48, 64, 3))
        write_video(folder / f"{seed}.mp4", list(frames), fps=12.0)
    return folder
