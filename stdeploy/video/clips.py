"""From a file to the clips that a network wants: a few for one answer, or all along the video."""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stdeploy.artifacts.frames import Frames, on_host
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.artifacts.values import Spec
from stdeploy.errors import SpecError, VideoError
from stdeploy.video.decoder import DecoderName, IndexMisleadsError, Picture
from stdeploy.video.flaws import NO_FLAWS, Flaws
from stdeploy.video.limits import NO_LIMITS, Limits
from stdeploy.video.reader import Choice, VideoReader
from stdeploy.video.sampling import Window, chunk_times, frames_at, view_times, window_times
from stdeploy.video.shots import Moments, ShotWindow, Shown, looked_at, shrink, slide_in_shots
from stdeploy.video.timing import Timing
from stdeploy.video.transform import Image, clip_crops, clip_frame


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips of one video.

    Attributes:
        frames: uint8 (N, T, H, W, 3), RGB; a tensor of torch on the GPU where that decoded them.
        times_seconds: (N, T), when each frame is shown, from the first frame of the video.
        duration_seconds: of the video.
        flaws: what is wrong with it, as far as it has been decoded.
        shots_seconds: (N,), when the shot of each clip begins, where cuts were looked for.
    """

    frames: Frames = dataclasses.field(repr=False)
    times_seconds: NDArray[np.float64] = dataclasses.field(repr=False)
    duration_seconds: float
    flaws: Flaws = NO_FLAWS
    shots_seconds: NDArray[np.float64] | None = None


class ClipRequest(Spec):
    """Which clips of a video are wanted.

    Attributes:
        clip: T, the interval, and how large.
        views: clips, evenly spaced over the video, that are averaged to one answer.
        crops: of each of those, 1 (the centre) or 3 (along the longer side).
        hop_seconds: instead, a clip every so many seconds all along the video.
        chunk_frames: instead, all frames at the clip's interval, so many at a time.
        shortest_shot_seconds: look for hard cuts, and give no clip or chunk that straddles one; a
            shot begins with a clip of its own. Shots that are shorter than this are joined to the
            one after. None: cuts are not looked for. Without effect on views.
        group: clips given at once, where they are wanted all along.
        decoder: see `VideoReader`.
        large_on_gpu: likewise.
    """

    clip: ClipSpec
    views: int = Field(default=1, ge=1)
    crops: Literal[1, 3] = 1
    hop_seconds: float | None = Field(default=None, gt=0)
    chunk_frames: int | None = Field(default=None, ge=1)
    shortest_shot_seconds: float | None = Field(default=None, gt=0)
    group: int = Field(default=1, ge=1)
    decoder: DecoderName = "auto"
    large_on_gpu: bool = False

    @property
    def in_one_piece(self) -> bool:
        """Whether all that is wanted comes at once."""
        return self.hop_seconds is None and self.chunk_frames is None


# How clips are read: in this process, or by one of a `DecodePool`.
ReadClips = Callable[[Path, ClipRequest], Iterator[Clips]]


def read_clips(video: Path, request: ClipRequest, limits: Limits = NO_LIMITS) -> Iterator[Clips]:
    """Decode what is wanted of a video.

    Args:
        video: a file.
        request: what is wanted.
        limits: what a frame and a file may hold.

    Yields:
        All views at once; windows in groups and chunks one by one, in the order of time.

    Raises:
        VideoError: it gives no clip; the message says why, without the path.
    """
    reader = VideoReader(
        video, decoder=request.decoder, limits=limits, large_on_gpu=request.large_on_gpu
    )
    clip, shortest = request.clip, request.shortest_shot_seconds
    if request.hop_seconds is not None:
        if shortest is None:
            yield from _windows(reader, clip, request.hop_seconds, request.group)
        else:
            yield from _windows_in_shots(reader, clip, request.hop_seconds, request.group, shortest)
    elif request.chunk_frames is not None:
        if shortest is None:
            yield from _chunks(reader, clip, request.chunk_frames)
        else:
            yield from _chunks_in_shots(reader, clip, request.chunk_frames, shortest)
    else:
        yield _views(reader, clip, request.views, request.crops)


def read_views(video: Path, clip: ClipSpec, views: int, *, crops: Literal[1, 3] = 1) -> Clips:
    """Decode the clips of a video, evenly spaced over it; the crops of one time side by side.

    Args:
        video: a file.
        clip: which frames, and how large.
        views: times wanted.
        crops: clips at each time, 1 (the centre) or 3 (along the longer side).

    Raises:
        VideoError: it gives no clip; the message says why, without the path.
    """
    return _views(VideoReader(video), clip, views, crops)


def clips_of_frames(frames: NDArray[np.uint8], fps: float, request: ClipRequest) -> Clips:
    """The clips that a video of these frames, shown at an even rate, would give.

    Args:
        frames: uint8 (F, H, W, 3), RGB, F at least 1.
        fps: how many are shown in a second.
        request: views and crops; nothing that is wanted all along.

    Raises:
        SpecError: frames or rate are no video.
        VideoError: there are too few for a clip, and the clip wants no short videos.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise SpecError(
            f"frames are {frames.dtype} {frames.shape}; uint8 (F, H, W, 3), RGB, is wanted"
        )
    if not (math.isfinite(fps) and fps > 0):
        raise SpecError(f"fps = {fps!r}: a positive number of frames per second is wanted")
    duration = len(frames) / fps
    times = view_times(duration, request.clip, request.views)
    shown = np.arange(len(frames)) / fps
    numbers = frames_at(shown, times)  # (views, T)
    wanted, places = np.unique(numbers, return_inverse=True)
    cropped = np.stack(
        [clip_crops(frames[n], clip=request.clip, crops=request.crops) for n in wanted]
    )
    clips = cropped[places.reshape(numbers.shape)].swapaxes(1, 2)  # (views, crops, T, H, W, 3)
    return Clips(
        clips.reshape(-1, *request.clip.frames_shape),
        shown[numbers].repeat(request.crops, axis=0),
        duration,
    )


def _views(reader: VideoReader, clip: ClipSpec, views: int, crops: Literal[1, 3]) -> Clips:
    def choose(timing: Timing) -> NDArray[np.intp]:
        return frames_at(timing.timestamps, view_times(timing.duration, clip, views))

    numbers, frames = _gathered(reader, choose, clip, crops)  # (times, T, crops, H, W, 3)
    clips = frames.swapaxes(1, 2).reshape(-1, *clip.frames_shape)
    times = reader.timing.timestamps[numbers].repeat(crops, axis=0)
    return Clips(clips, times, reader.timing.duration, reader.flaws)


def _gathered(
    reader: VideoReader, choose: Choice, clip: ClipSpec, crops: Literal[1, 3]
) -> tuple[NDArray[np.intp], Frames]:
    """Frames of clips (*numbers.shape, crops, H, W, 3), and their numbers."""
    if reader.on_gpu:
        from stdeploy.video.nv12 import gather  # an extra

        gathered = gather(reader, choose, clip, crops)
        if gathered is not None:
            return gathered
    return reader.gather(choose, functools.partial(clip_crops, clip=clip, crops=crops))


def _prepared(picture: Picture, clip: ClipSpec) -> Image:
    """A frame of a clip."""
    if isinstance(picture, np.ndarray):
        return clip_frame(picture, clip)
    return picture.clip_frame(clip)


def _windows(reader: VideoReader, clip: ClipSpec, hop: float, group: int) -> Iterator[Clips]:
    def choose(timing: Timing, first: int) -> Iterator[NDArray[np.intp]]:
        for times in window_times(timing.duration, clip, hop, first=first):
            yield frames_at(timing.timestamps, times)

    windows = reader.slide(choose, functools.partial(_prepared, clip=clip))
    while together := list(itertools.islice(windows, group)):
        yield _clips(reader, together)


def _chunks(reader: VideoReader, clip: ClipSpec, frames: int) -> Iterator[Clips]:
    def choose(timing: Timing, first: int) -> Iterator[NDArray[np.intp]]:
        for times in chunk_times(timing.duration, clip, frames, first=first):
            yield frames_at(timing.timestamps, times)

    for chunk in reader.slide(choose, functools.partial(_prepared, clip=clip)):
        yield _clips(reader, [chunk])


def _windows_in_shots(
    reader: VideoReader, clip: ClipSpec, hop: float, group: int, shortest: float
) -> Iterator[Clips]:
    windows = _in_shots(
        reader, clip, lambda seconds: window_times(seconds, clip, hop), shortest=shortest
    )
    while together := list(itertools.islice(windows, group)):
        clips = _clips(reader, [(window.numbers, window.frames) for window in together])
        shots = np.array([window.shot_seconds for window in together])
        yield dataclasses.replace(clips, shots_seconds=shots)


def _chunks_in_shots(
    reader: VideoReader, clip: ClipSpec, frames: int, shortest: float
) -> Iterator[Clips]:
    singles = _in_shots(
        reader, clip, lambda seconds: chunk_times(seconds, clip, 1), shortest=shortest
    )
    for shot, of_shot in itertools.groupby(singles, lambda single: single.shot_seconds):
        while together := list(itertools.islice(of_shot, frames)):
            numbers = np.concatenate([single.numbers for single in together])
            clips = _clips(reader, [(numbers, np.concatenate([s.frames for s in together]))])
            yield dataclasses.replace(clips, shots_seconds=np.array([shot]))


def _in_shots(
    reader: VideoReader, clip: ClipSpec, moments: Moments, *, shortest: float
) -> Iterator[ShotWindow]:
    """See `slide_in_shots`; begins again with the shot under way where packets have misled."""
    start, given = 0.0, 0
    while True:
        with contextlib.suppress(IndexMisleadsError):
            pictures = _pictures(reader, clip, start)
            windows = slide_in_shots(pictures, reader.timing, clip, moments, shortest=shortest)
            for window in itertools.islice(windows, given, None):
                given = given + 1 if window.shot_seconds == start else 1
                start = window.shot_seconds
                yield window
            return


def _pictures(reader: VideoReader, clip: ClipSpec, start: float) -> Iterator[Shown]:
    """All pictures in which cuts are looked for, from a moment on."""
    wanted, numbers = itertools.tee(looked_at(reader.timing, start))
    for picture, number in zip(reader.pictures(wanted), numbers, strict=True):
        seconds = float(reader.timing.timestamps[number])
        image = picture if isinstance(picture, np.ndarray) else picture.to_host()
        yield Shown(number, seconds, shrink(image), _prepared(picture, clip))


def _clips(reader: VideoReader, windows: Sequence[Window]) -> Clips:
    numbers, frames = (np.stack(parts) for parts in zip(*windows, strict=True))
    times = reader.timing.timestamps[numbers]
    return Clips(frames, times, reader.timing.duration, reader.flaws)


def middle_clips(
    videos: Sequence[Path],
    clip: ClipSpec,
    *,
    count: int,
    accept: Callable[[Path, NDArray[np.uint8]], bool] = lambda _video, _frames: True,
) -> Iterator[NDArray[np.uint8]]:
    """Decode the middle clips of videos that are evenly spaced in a sequence of them.

    Args:
        videos: files, at least one.
        clip: which frames, and how large.
        count: clips wanted. There are fewer where fewer videos can be read.
        accept: whether a clip of a video is taken; one that is not is passed over, too.

    Yields:
        uint8 (T, H, W, 3), RGB.

    Raises:
        VideoError: none of the videos gives a clip.
    """
    given, reason = 0, ""
    for video in evenly(videos, count):
        if given == count:
            return
        try:
            frames: NDArray[np.uint8] = on_host(read_views(video, clip, views=1).frames[0])
        except VideoError as error:
            reason = str(error)
            continue
        if not accept(video, frames):
            reason = "gives a clip that is not taken"
            continue
        given += 1
        yield frames
    if not given:
        raise VideoError(
            f"none of the {len(videos)} videos can be read; the last, {str(video)!r}, {reason}"
        )


def evenly(videos: Sequence[Path], count: int) -> list[Path]:
    """All videos, so ordered that the first `count` are spread evenly over them.

    The others are spares: a video that cannot be read costs no clip while there are any.
    """
    wanted = min(count, len(videos))
    chosen = [videos[round(number * len(videos) / wanted)] for number in range(wanted)]
    taken = set(chosen)
    return [*chosen, *(video for video in videos if video not in taken)]
