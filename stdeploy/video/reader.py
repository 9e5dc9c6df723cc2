"""Any frame of a video file, by number, whichever library decodes it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.errors import MissingExtraError, VideoError
from stdeploy.optional_packages import pip_install
from stdeploy.video.containers import announced, lacks_index, programs
from stdeploy.video.decoder import (
    Decoder,
    DecoderName,
    Index,
    IndexMisleadsError,
    LeavesGpuError,
    Picture,
    Stream,
)
from stdeploy.video.flaws import Flaws, gaps_of, notes_on, spans_of
from stdeploy.video.libraries import decoders, indexers
from stdeploy.video.limits import NO_LIMITS, Limits
from stdeploy.video.opencv import OpenCV, refused_by_opencv
from stdeploy.video.sampling import Window, slide
from stdeploy.video.timing import SAME_SECONDS, Timing, missing_from, same_stamp
from stdeploy.video.transform import AS_CODED, Image, same_picture
from stdeploy.video.video_files import check_file

# Which frames are wanted, once it is known when they are shown.
Choice = Callable[[Timing], NDArray[np.intp]]

NO_FRAME = "holds no frame that can be decoded here"
NO_INDEX = (
    "breaks off before its index (moov), without which an MP4 does not play: copy it again, or let "
    "what records it come to its end"
)
ENCRYPTED = "is encrypted; decrypt it with its key first, as its owner allows"
_LOST = -2  # a position; -1 is before the first frame
_FAR_FRAMES = 100  # a leap over fewer frames takes as long as decoding them
# Sound files lack as much at their end: encoders announce a frame or two that no decoder gives.
_TOLERATED_FRAMES, _TOLERATED_SECONDS = 2, 0.5


class VideoReader:
    """One video file: when its frames are shown, and any of them, upright.

    Headers lie about how many frames there are, so they are not believed. The packets are, as
    long as the frames that they hold come out of the decoder at the times that they announce;
    where one does not, the whole file is decoded once to see. Frames that cannot be decoded are
    left out, and counted; those around them keep their times.

    Args:
        path: of the file.
        decoder: "auto" decodes with OpenCV, and with PyAV what OpenCV does not read; packets are
            read by PyAV, which knows more about them, where it is installed. "nvdec" decodes on
            an NVIDIA GPU, and as "auto" what cannot be decoded there.
        limits: what a frame and a file may hold.
        large_on_gpu: let "auto" be "nvdec" where frames are large (1920x1080 pixels and more).

    Raises:
        VideoError: no such file, no video in it, or more in it than the limits allow.
        MissingExtraError: PyAV or PyNvVideoCodec was asked for and is not installed.
        BackendError: PyNvVideoCodec finds no GPU that it can use.

    Attributes:
        path: of the file.
        timing: when the frames are shown.
    """

    def __init__(
        self,
        path: Path,
        *,
        decoder: DecoderName = "auto",
        limits: Limits = NO_LIMITS,
        large_on_gpu: bool = False,
    ) -> None:
        check_file(path)
        self.path = path
        self._limits = limits
        self._said = announced(path)
        if self._said is not None and self._said.encrypted:
            raise VideoError(ENCRYPTED)
        self._index = self._read_index(indexers(decoder, limits))
        self._others = decoders(decoder, limits, self._index, large_on_gpu=large_on_gpu)
        self._decoder: Decoder = self._next_decoder()
        self._not_on_gpu = ""
        self._scanned = False
        self._errors = 0
        self._flaws: Flaws | None = None
        self._believe_packets()

    @property
    def decoder(self) -> str:
        """Which library decodes this file: "opencv", "pyav" or "nvdec"."""
        return self._decoder.name

    @property
    def on_gpu(self) -> bool:
        """Whether its frames are decoded on a GPU, and lie there."""
        return self._decoder.name == "nvdec"

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of a frame in pixels, the right way up, as the file announces them."""
        turned = (self._index.orientation or AS_CODED).transposed
        height, width = self._index.height, self._index.width
        return (width, height) if turned else (height, width)

    @property
    def damaged_after(self) -> float | None:
        """Where the frames end, in seconds, of a file that announces more after them.

        Both frames and seconds have to be missing: a last frame may be announced to stand for
        long, and a file may hold more frames than it is to show.
        """
        frames, seconds = self._announced_length()
        frames -= len(self.timing.timestamps)
        seconds -= self._lead_seconds + self.timing.duration
        missing = frames > _TOLERATED_FRAMES and seconds > _TOLERATED_SECONDS
        return self.timing.duration if missing else None

    @property
    def announced_seconds(self) -> float:
        """How long the video lasts by what the file announces, whatever of it can be decoded."""
        return self._announced_length()[1]

    @property
    def flaws(self) -> Flaws:
        """What is wrong with the video, as far as it has been decoded."""
        if self._flaws is None:
            self._flaws = self._look_for_flaws()
        return self._flaws

    def gather(
        self, choose: Choice, prepare: Callable[[Image], Image]
    ) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
        """Fetch frames; each is decoded once, skipped ones are not converted.

        Args:
            choose: gives frame numbers of any shape, 0 to len(timing.timestamps) - 1.
            prepare: turns a decoded frame (H, W, 3), BGR and upright, into what is kept.

        Returns:
            The frame numbers, and the prepared frames, numbers.shape + (h, w, 3).

        Raises:
            VideoError: what the packets announce cannot be decoded.
        """
        while True:
            numbers = choose(self.timing)
            wanted = np.unique(numbers)
            gathered: NDArray[np.uint8] | None = None
            with contextlib.suppress(IndexMisleadsError):
                for number, image in zip(wanted, self.images(wanted), strict=True):
                    frame = prepare(image)
                    if gathered is None:
                        gathered = np.empty((*numbers.shape, *frame.shape), dtype=np.uint8)
                    gathered[numbers == number] = frame
                assert gathered is not None
                return numbers, gathered

    def slide(
        self,
        choose: Callable[[Timing, int], Iterator[NDArray[np.intp]]],
        prepare: Callable[[Picture], Image],
    ) -> Iterator[Window]:
        """Fetch windows that slide along the video; see `slide` in sampling.py.

        Args:
            choose: gives the frame numbers of each window, from a given window on.
            prepare: turns a decoded frame, upright, into what is kept: (H, W, 3), BGR, or a
                `DeviceFrame` where `on_gpu`.

        Yields:
            Each window: its frame numbers (T,) and its frames (T, h, w, 3).

        Raises:
            VideoError: what the packets announce cannot be decoded.
        """
        done = 0
        while True:
            with contextlib.suppress(IndexMisleadsError):
                for window in slide(choose(self.timing, done), self.pictures, prepare):
                    yield window
                    done += 1
                return

    def images(self, numbers: Iterable[int]) -> Iterator[Image]:
        """Decode frames one after the other, while the file is open.

        Args:
            numbers: of frames, ascending.

        Yields:
            (H, W, 3), BGR and upright.

        Raises:
            IndexMisleadsError: `timing` was wrong and has been mended; begin again.
            VideoError: what the packets announce cannot be decoded.
        """
        for picture in self.pictures(numbers):
            yield picture if isinstance(picture, np.ndarray) else picture.to_host()

    def pictures(self, numbers: Iterable[int]) -> Iterator[Picture]:
        """Like `images`, without fetching what lies on a GPU."""
        try:
            yield from self._pictures(numbers)
        except LeavesGpuError as reason:
            self._leave_gpu(str(reason))
            raise IndexMisleadsError from reason

    def _pictures(self, numbers: Iterable[int]) -> Iterator[Picture]:
        orientation = self._index.orientation or AS_CODED
        with self._decoder.open(self.path, len(self._index.stamps)) as stream:
            position, sought = -1, False
            last: Picture | None = None
            for number in numbers:
                key = self._leap(position, number)
                if key is not None:
                    sought = True
                    stream.seek(float(self._stamps[key]))
                    position = self._position_of(stream.grab(), number)
                while _LOST < position < number:
                    position += 1
                    if not self._as_announced(stream.grab(), position):
                        position = _LOST
                if position == _LOST:
                    self._mend(sought=sought)
                    raise IndexMisleadsError
                image = stream.image()
                if self._doubts(image, last):
                    raise IndexMisleadsError
                last = image
                if isinstance(image, np.ndarray):
                    yield orientation.apply(image)
                else:
                    yield image.turned(orientation)

    def scan(self) -> None:
        """Decode the whole file, so that `timing` is what really comes out of it.

        Raises:
            VideoError: nothing comes out.
        """
        if self.on_gpu:
            self._leave_gpu("its packets do not say when its frames are shown")
        while True:
            with self._decoder.open(self.path, len(self._index.stamps)) as stream:
                stamps = np.fromiter(_stamps_of(stream, self._limits), dtype=np.float64)
            if len(stamps):
                break
            self._try_another(NO_FRAME)
        self._errors, self._scanned = stream.errors, True
        self._know(stamps, np.zeros(len(stamps), dtype=np.bool_))

    def _read_index(self, indexers: list[Callable[[], Decoder]]) -> Index:
        """Read the packets with the first library that can.

        Raises:
            VideoError: none can.
        """
        reason, hint = NO_FRAME, ""
        for make in indexers:
            try:
                index = make().index(self.path)
            except MissingExtraError:
                if len(indexers) == 1:
                    raise
                hint = f"; if it plays elsewhere, PyAV may read it: {pip_install('pyav')}"
            except VideoError as error:
                if lacks_index(self.path):
                    raise VideoError(NO_INDEX) from error
                reason = str(error)
            else:
                self._limits.check(index)
                if len(index.stamps):
                    return index
        raise VideoError(reason + hint)

    def _believe_packets(self) -> None:
        """Take what the packets say for true, unless they do not say all."""
        stamps, keys = self._index.stamps, self._index.keys
        if np.isnan(stamps).any():
            self.scan()
            return
        ascending = bool((np.diff(stamps) > 0).all())
        self._know(stamps, keys if ascending else keys & False)
        if self.damaged_after is not None:
            self.scan()  # the last packets may not decode either

    def _know(self, stamps: NDArray[np.float64], keys: NDArray[np.bool_]) -> None:
        self._flaws = None
        self._stamps = stamps
        self._keys = np.flatnonzero(keys)
        last = self._index.last_seconds if same_stamp(stamps[-1], self._index.stamps[-1]) else 0.0
        self.timing = Timing.of(stamps, self._index.fps, last)
        self._limits.check_duration(self.timing.duration)

    def _announced_length(self) -> tuple[int, float]:
        """How many frames the file announces, and how many seconds."""
        # The index of a fragmented MP4 counts nothing.
        if self._said is not None and self._said.frames:
            return self._said.frames, self._said.seconds
        return len(self._index.stamps), self._announced_timing.duration

    @property
    def _lead_seconds(self) -> float:
        """What is announced before the first frame that can be decoded."""
        lead = float(self._stamps[0] - self._index.stamps[0])
        return lead if lead > 0 else 0.0  # NaN where one of them is missing

    @property
    def _announced_timing(self) -> Timing:
        """When the frames would be shown if every packet gave one."""
        return Timing.of(self._index.stamps, self._index.fps, self._index.last_seconds)

    def _look_for_flaws(self) -> Flaws:
        stamps, packets = self._index.stamps, self._announced_timing
        fewer = len(stamps) - len(self._stamps) > _TOLERATED_FRAMES
        begins_late = fewer and self._lead_seconds > 0
        missing = (
            missing_from(stamps, self._stamps)
            if self._errors or self.damaged_after is not None or begins_late
            else np.zeros(0, dtype=np.intp)
        )
        return Flaws(
            damaged_after_seconds=self.damaged_after,
            # OpenCV does not list a packet that is damaged, nor is its place known without times.
            lost_frames=len(missing) or self._errors,
            lost_spans_seconds=spans_of(missing, packets),
            times_estimated=self.timing.estimated > 0,
            notes=tuple(
                notes_on(
                    self.timing,
                    programs(self.path),
                    oriented=self._index.orientation is not None,
                    gaps=gaps_of(self._index.broken, packets, self._lead_seconds, self.timing),
                    on_gpu=self.on_gpu,
                    not_on_gpu=self._not_on_gpu,
                )
            ),
        )

    def _try_another(self, reason: str) -> None:
        """Decode with the next library from now on.

        Raises:
            VideoError: there is none.
        """
        if not self._others:
            seen = programs(self.path)
            raise VideoError(ENCRYPTED if seen is not None and seen.scrambled else reason)
        try:
            self._decoder = self._others.pop(0)()
        except MissingExtraError as error:
            raise VideoError(
                f"{reason}; if it plays elsewhere, PyAV may read it: {pip_install('pyav')}"
            ) from error
        self._trusted, self._scanned = True, False

    def _leave_gpu(self, reason: str) -> None:
        self._not_on_gpu, self._flaws = reason, None
        self._decoder = self._next_decoder()

    def _next_decoder(self) -> Decoder:
        """The one to begin with; what may be wrong about it is looked at."""
        decoder = self._others.pop(0)()
        if self._index.interlaced and self._others and decoder.name == OpenCV.name:
            with contextlib.suppress(MissingExtraError):
                decoder = self._others.pop(0)()
        self._trusted = decoder.name != OpenCV.name
        return decoder

    def _leap(self, position: int, number: int) -> int | None:
        """The key frame to seek to, where that is shorter than decoding on.

        It is the last but one before the wanted frame: those next to a key frame may need frames
        before it. And three have to lie ahead, because libraries step back by one themselves.
        """
        before = int(np.searchsorted(self._keys, number, side="right"))
        if before < 3 or number - position < _FAR_FRAMES or self._keys[before - 3] <= position:
            return None
        return int(self._keys[before - 2])

    def _position_of(self, landed: float | None, number: int) -> int:
        """Which frame a seek has led to; _LOST if not to a known one, or not before `number`."""
        if landed is None:
            return _LOST
        position = int(np.searchsorted(self._stamps, landed - SAME_SECONDS))
        return position if position <= number and self._as_announced(landed, position) else _LOST

    def _as_announced(self, stamp: float | None, position: int) -> bool:
        return (
            stamp is not None
            and position < len(self._stamps)
            and same_stamp(stamp, float(self._stamps[position]))
        )

    def _mend(self, *, sought: bool) -> None:
        """Believe less: no seeking first, then nothing but what has been decoded."""
        if sought:
            self._keys = self._keys[:0]
        elif self._scanned:
            raise VideoError("does not decode twice alike; the file is damaged")
        else:
            self.scan()

    def _doubts(self, image: Picture, last: Picture | None) -> bool:
        """Whether to begin again with another library, because of what a picture looks like.

        OpenCV gives the picture before, without a word, where it cannot convert a frame: all of
        an interlaced video. One that really stands still looks the same, and then nothing is lost
        by the other library.

        Raises:
            VideoError: the picture is too large, or wrong with no other library to ask.
        """
        height, width = image.shape[:2]
        self._limits.check_size(width, height)
        if not isinstance(image, np.ndarray) or not isinstance(last, np.ndarray):
            return False
        if self._trusted or not same_picture(image, last):
            return False
        self._trusted = True
        if self._others:
            with contextlib.suppress(MissingExtraError):
                self._decoder = self._others.pop(0)()
                self._scanned = False
                return True
        if self._decoder.name == OpenCV.name and refused_by_opencv(self.path):
            raise VideoError(
                "is interlaced, which OpenCV cannot convert; PyAV can, with the reader left to "
                f"auto: {pip_install('pyav')}"
            )
        return False


def _stamps_of(stream: Stream, limits: Limits) -> Iterator[float]:
    count = 0
    while (stamp := stream.grab()) is not None:
        count += 1
        limits.check_frames(count)
        yield stamp
