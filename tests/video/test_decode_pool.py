import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import SpecError, VideoError
from stdeploy.video import messages
from stdeploy.video.clips import ClipRequest, Clips, read_clips
from stdeploy.video.decode_pool import DecodePool, NoDecoderError
from stdeploy.video.limits import Limits, lasting
from tests.helpers.nvdec_stand_in import stand_in
from tests.helpers.odd_videos import coloured_frames, encode
from tests.helpers.video_attacks import ATTACKS, write_secret

CLIP = ClipSpec(num_frames=4, frame_stride=2, fps=25.0, short_side_px=32, crop_px=32)
REQUEST = ClipRequest(clip=CLIP, views=2)
LIMITS = Limits(memory_bytes=1 << 30, cpu_seconds=1, wall_seconds=6.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacks")
    secret = write_secret(folder / "secret.mp4")
    for name, (make, _) in ATTACKS.items():
        make(folder / name, secret)
    encode(folder / "good.mp4", coloured_frames(40), "libx264")
    return folder


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, LIMITS) as pool:
        yield pool


HOW: tuple[dict[str, object], ...] = (
    {},
    {"hop_seconds": 0.1, "group": 3},
    {"hop_seconds": 0.1, "group": 3, "shortest_shot_seconds": 0.1},
    {"chunk_frames": 7},
    {"chunk_frames": 7, "shortest_shot_seconds": 0.1},
)


def assert_same(clips: list[Clips], expected: list[Clips]) -> None:
    assert len(clips) == len(expected)
    for one, other in zip(clips, expected, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.times_seconds, other.times_seconds)
        assert one.duration_seconds == other.duration_seconds
        assert one.flaws == other.flaws
        np.testing.assert_array_equal(one.shots_seconds, other.shots_seconds)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("decoder", ["opencv", "pyav"])
def test_clips_are_those_of_this_process(
    folder: Path, pool: DecodePool, how: dict[str, object], decoder: str
) -> None:
    request = ClipRequest.parse({"clip": CLIP, "decoder": decoder} | how)
    clips = list(pool.read_clips(folder / "good.mp4", request))
    assert_same(clips, list(read_clips(folder / "good.mp4", request)))


@pytest.mark.parametrize("decoder", ["opencv", "pyav", "auto"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_in_an_error_and_the_next_video_is_fine(
    folder: Path, pool: DecodePool, name: str, decoder: str
) -> None:
    request = REQUEST.model_copy(update={"decoder": decoder})
    expected = ATTACKS[name][1]
    start = time.monotonic()
    if expected is None:
        try:
            clips = list(pool.read_clips(folder / name, request))
        except VideoError:
            pass
        else:
            assert clips[0].frames.shape[1:] == CLIP.frames_shape
    else:
        with pytest.raises(VideoError, match=expected):
            list(pool.read_clips(folder / name, request))
    assert time.monotonic() - start < LIMITS.wall_seconds + 4
    good = list(pool.read_clips(folder / "good.mp4", REQUEST))
    assert_same(good, list(read_clips(folder / "good.mp4", REQUEST)))


@pytest.mark.parametrize("how", HOW)
def test_damage_is_told(folder: Path, pool: DecodePool, how: dict[str, object]) -> None:
    cut = folder / "cut.mp4"
    encode(cut, coloured_frames(100), "libx264", container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    request = ClipRequest.parse({"clip": CLIP} | how)
    clips = list(pool.read_clips(cut, request))
    assert clips[-1].flaws.damaged_after_seconds == clips[-1].duration_seconds < 3.0
    assert_same(clips, list(read_clips(cut, request)))


def test_memory_is_limited(folder: Path) -> None:
    tight = dataclasses.replace(LIMITS, memory_bytes=700 << 20, pixels=1 << 40, cpu_seconds=20)
    with (
        DecodePool(1, tight) as pool,
        pytest.raises(VideoError, match=r"needs more than 700 MiB of memory|cannot be conv"),
    ):
        list(pool.read_clips(folder / "large.mp4", REQUEST))


def test_frames_are_limited(folder: Path) -> None:
    few = dataclasses.replace(LIMITS, frames=39)
    with DecodePool(1, few) as pool, pytest.raises(VideoError, match="more than 39 frames"):
        list(pool.read_clips(folder / "good.mp4", REQUEST))


def child_of_this_process() -> int:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    workers = [
        int(child)
        for child in children
        if b"decode_worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert workers
    return workers[-1]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGSTOP, "took more than 3 s to decode"),
        (signal.SIGKILL, "made the process that decodes it end"),
        (signal.SIGSEGV, r"crash \(signal 11\)"),
    ],
)
def test_a_worker_that_hangs_or_dies_at_work_is_replaced(
    folder: Path, number: signal.Signals, message: str
) -> None:
    def hit() -> bool:  # asked while the worker has the video and is waited for
        os.kill(worker, number)
        if number != signal.SIGSTOP:
            os.kill(worker, signal.SIGCONT)  # lets it have the signal
        return False

    with DecodePool(1, dataclasses.replace(LIMITS, wall_seconds=3.0)) as pool:
        good = list(pool.read_clips(folder / "good.mp4", REQUEST))
        worker = child_of_this_process()
        os.kill(worker, signal.SIGSTOP)  # so that it is not done before it is hit
        with pytest.raises(VideoError, match=message):
            list(pool.read_clips(folder / "good.mp4", REQUEST, unwanted=hit))
        assert_same(list(pool.read_clips(folder / "good.mp4", REQUEST)), good)


def test_a_worker_that_died_while_idle_costs_no_video(folder: Path) -> None:
    with DecodePool(1, LIMITS) as pool:
        good = list(pool.read_clips(folder / "good.mp4", REQUEST))
        worker = child_of_this_process()
        os.kill(worker, signal.SIGKILL)
        os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
        assert_same(list(pool.read_clips(folder / "good.mp4", REQUEST)), good)
        assert child_of_this_process() != worker


def test_clips_that_nobody_wants_any_more_free_the_worker(folder: Path) -> None:
    sliding = ClipRequest(clip=CLIP, hop_seconds=0.04)
    with DecodePool(1, LIMITS) as pool:
        for _ in range(3):
            clips = pool.read_clips(folder / "good.mp4", sliding)
            assert next(clips).frames.shape == (1, *CLIP.frames_shape)
            clips.close()  # type: ignore[attr-defined]


def test_threads_share_a_pool(folder: Path) -> None:
    expected = list(read_clips(folder / "good.mp4", REQUEST))
    with DecodePool(2, LIMITS) as pool, ThreadPoolExecutor(4) as threads:
        read: Callable[[int], list[Clips]] = lambda _: list(  # noqa: E731
            pool.read_clips(folder / "good.mp4", REQUEST)
        )
        for clips in threads.map(read, range(12)):
            assert_same(clips, expected)


def test_a_module_beside_the_videos_is_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("open('was-run', 'w')\nraise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    with DecodePool(1, LIMITS) as pool:
        assert list(pool.read_clips(folder / "good.mp4", REQUEST))
    assert not (tmp_path / "was-run").exists()


def test_after_closing_nothing_is_decoded(folder: Path) -> None:
    with DecodePool(1, LIMITS) as pool:
        list(pool.read_clips(folder / "good.mp4", REQUEST))
        pool.close()
        with pytest.raises(VideoError, match="work was ended"):
            list(pool.read_clips(folder / "good.mp4", REQUEST))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(10.0, "10 s"), (90.0, "1.5 min"), (3600.0, "1 hour"), (31_536_000.0, "8,760 hours")],
)
def test_a_length_is_told_in_words(seconds: float, words: str) -> None:
    assert lasting(seconds) == words


def test_a_video_that_is_hardly_too_long_is_told_by_the_second() -> None:
    words = r"lasts 3600\.4 s by its timestamps; the longest allowed is 3600 s$"
    with pytest.raises(VideoError, match=words):
        dataclasses.replace(LIMITS, seconds=3600.0).check_duration(3600.4)


def test_a_video_that_lasts_for_years_is_refused(folder: Path, tmp_path: Path) -> None:
    times = [number * 299_000 for number in range(400)]
    encode(tmp_path / "years.mkv", coloured_frames(40) * 10, "libx264", times=times)
    words = r"lasts 33\.2 hours by its timestamps; the longest allowed is 24 hours$"
    with DecodePool(1, LIMITS) as pool, pytest.raises(VideoError, match=words):
        list(pool.read_clips(tmp_path / "years.mkv", ClipRequest(clip=CLIP, hop_seconds=0.1)))


@pytest.mark.parametrize(
    "content",
    [
        b"\x04\x00\x00\x00null",
        b"\x10\x00\x00\x00" + b"[" * 16,
        b'\x12\x00\x00\x00{"shape":[1e999]}x',
        b'\x10\x00\x00\x00{"shape": [0,1]}',
        b'\x1b\x00\x00\x00{"shape": [99999999999999]}',
        b"\xff\xff\xff\xff",
    ],
)
def test_what_is_no_message_is_nonsense(content: bytes) -> None:
    position = 0

    def read_into(buffer: memoryview) -> None:
        nonlocal position
        buffer[:] = content[position : position + len(buffer)].ljust(len(buffer), b"\0")
        position += len(buffer)

    with pytest.raises(messages.BrokenMessageError):
        messages.receive(read_into, most_bytes=1 << 20)


def test_a_process_with_a_gpu_decodes_there_and_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode(path, coloured_frames(40), "libx264")
    request = ClipRequest(clip=ClipSpec(num_frames=4, short_side_px=64, crop_px=56), views=2)
    with stand_in(), DecodePool(1, LIMITS, on_gpu=True) as pool:
        (expected,) = pool.read_clips(path, request)
        (found,) = pool.read_clips(path, request.model_copy(update={"decoder": "nvdec"}))
    np.testing.assert_array_equal(found.frames, expected.frames)
    assert expected.flaws.notes == ()
    assert found.flaws.notes[0].startswith("it was decoded on the GPU")


def test_a_process_without_a_gpu_refuses_to_decode_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode(path, coloured_frames(4), "libx264")
    request = ClipRequest(clip=ClipSpec(num_frames=4, short_side_px=64, crop_px=56))
    with stand_in(), DecodePool(1, LIMITS) as pool:
        with pytest.raises(SpecError, match="on_gpu=True"):
            list(pool.read_clips(path, request.model_copy(update={"decoder": "nvdec"})))
        large = request.model_copy(update={"large_on_gpu": True})
        (found,) = pool.read_clips(path, large)
    assert found.flaws.notes == ()


def test_a_gpu_that_cannot_be_used_keeps_a_process_from_starting() -> None:
    with DecodePool(1, LIMITS, on_gpu=True) as pool, pytest.raises(NoDecoderError):
        pool.start()
