"""Whether reading videos, odd and hostile ones, leaks memory or file handles.

    python benchmarks/endurance.py [--runs N] [--attacks N] [--more FOLDER]

Odd files are read in this process, by both libraries, again and again; hostile ones by a
`DecodePool`, with a good one after each, whose clips must stay the same.
"""

import argparse
import gc
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import VideoError
from stdeploy.video.clips import ClipRequest, read_clips
from stdeploy.video.decode_pool import DecodePool
from stdeploy.video.limits import Limits, give_back_large_arrays
from tests.helpers.odd_videos import ODD_VIDEOS
from tests.helpers.video_attacks import ATTACKS, write_secret

_PAGE = os.sysconf("SC_PAGE_SIZE")
CLIP = ClipSpec(num_frames=8, frame_stride=2, fps=25.0, short_side_px=64, crop_px=64)


def state() -> str:
    """Resident memory and open handles of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    handles = len(list(Path("/proc/self/fd").iterdir()))
    return f"{pages * _PAGE / 2**20:.0f} MiB, {handles} handles"


def odd(paths: list[Path], runs: int) -> None:
    """Read odd files in this process."""
    print(f"{len(paths)} odd files by both libraries, {runs} runs:")
    requests = [
        ClipRequest.parse({"clip": CLIP, "decoder": decoder} | how)
        for decoder in ("opencv", "pyav")
        for how in ({"views": 3}, {"hop_seconds": 0.5, "group": 2})
    ]
    jobs = itertools.product(requests, paths)
    for run, (request, path) in zip(range(runs), itertools.cycle(jobs), strict=False):
        if run % (runs // 10) == runs // 20:
            print(f"  after {run}: {state()}", flush=True)
        try:
            for _ in read_clips(path, request):
                pass
        except VideoError:
            pass
    print(f"  after {runs}: {state()}", flush=True)


def hostile(folder: Path, good: Path, attacks: int) -> None:
    """Let hostile files be decoded, each followed by a good one."""
    limits = Limits(memory_bytes=1 << 30, cpu_seconds=2, wall_seconds=10.0)
    request = ClipRequest(clip=CLIP, views=2)
    expected = next(read_clips(good, request)).frames
    seen: dict[str, str] = {}
    slowest = 0.0
    print(f"{attacks} hostile files by a pool of two, a good one after each:")
    with DecodePool(2, limits) as pool:
        for run, name in zip(range(attacks), itertools.cycle(ATTACKS), strict=False):
            if run % (attacks // 5) == attacks // 10:
                print(f"  after {run}: {state()}", flush=True)
            start = time.monotonic()
            try:
                (clips,) = pool.read_clips(folder / name, request)
                seen[name] = f"{len(clips.frames)} clips"
            except VideoError as error:
                seen[name] = str(error)
            slowest = max(slowest, time.monotonic() - start)
            (clips,) = pool.read_clips(good, request)
            assert np.array_equal(clips.frames, expected), name
        print(f"  after {attacks}: {state()}; the slowest took {slowest:.1f} s")
    for name, ending in seen.items():
        print(f"  {name}: {ending}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--attacks", type=int, default=200)
    parser.add_argument("--more", type=Path)
    arguments = parser.parse_args()
    give_back_large_arrays()  # as `stdeploy classify` does
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for odd_name, make in ODD_VIDEOS.items():
            make(folder / odd_name)
        paths = [folder / odd_name for odd_name in ODD_VIDEOS]
        if arguments.more is not None:
            paths += sorted(arguments.more.iterdir())
        secret = write_secret(folder / "secret.mp4")
        for attack, (make_attack, _) in ATTACKS.items():
            make_attack(folder / attack, secret)
        odd(paths, arguments.runs)
        hostile(folder, folder / "h264.mp4", arguments.attacks)


if __name__ == "__main__":
    main()
