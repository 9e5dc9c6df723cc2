"""Videos with something wrong: the frames that a player shows, at its times, and what is said."""

import io
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stdeploy.errors import VideoError
from stdeploy.video.decoder import DecoderName
from stdeploy.video.flaws import NO_FLAWS, Flaws
from stdeploy.video.reader import VideoReader
from stdeploy.video.transform import Orientation
from tests.helpers.odd_videos import coloured_frames, encode, number_in

READERS: tuple[DecoderName, ...] = ("auto", "opencv", "pyav")


def seen(path: Path, decoder: DecoderName) -> tuple[list[int], np.ndarray, VideoReader]:
    """Numbers of all frames as they are shown, their times, and the reader."""
    reader = VideoReader(path, decoder=decoder)
    _, frames = reader.gather(lambda timing: np.arange(len(timing.timestamps)), lambda image: image)
    return [number_in(frame) for frame in frames], reader.timing.timestamps, reader


def with_pause(path: Path, pause_packets: int) -> None:
    """Video for 2 s, then sound alone, then 2 s of video again."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        pause_ms = pause_packets * 8
        for number, image in enumerate(coloured_frames(100)):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = 40 * number + (pause_ms if number >= 50 else 0)
            frame.time_base = Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number in range(pause_packets + 500):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 64), np.int16), "s16", "mono")
            samples.rate, samples.pts = 8000, 64 * number
            container.mux(sound.encode(samples))


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("name", ["a.mkv", "a.mov"])
def test_sound_that_goes_on_alone_does_not_end_a_video(
    tmp_path: Path, name: str, decoder: DecoderName
) -> None:
    with_pause(tmp_path / name, 9000)  # OpenCV by itself gives up after 4096 packets
    numbers, times, reader = seen(tmp_path / name, decoder)
    assert numbers == list(range(100))
    np.testing.assert_allclose(times[[49, 50, 99]], [1.96, 74.0, 75.96], atol=2e-3)
    assert reader.timing.duration == pytest.approx(76.0, abs=2e-3)
    assert reader.flaws == NO_FLAWS


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("name", ["a.mpg", "a.vob"])
def test_packets_without_timestamps_lie_between_those_that_have_one(
    tmp_path: Path, name: str, decoder: DecoderName
) -> None:
    encode(tmp_path / name, coloured_frames(60), "libx264", container_format="vob")
    numbers, times, reader = seen(tmp_path / name, decoder)
    assert numbers == list(range(60))
    np.testing.assert_allclose(times, np.arange(60) / 25, atol=2e-3)
    assert reader.flaws == Flaws(times_estimated=True)


def spoil(source: Path, target: Path, spoilt: Sequence[int]) -> None:
    """Copy a video, with junk in place of some packets."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(old.streams.video[0])):
            if packet.dts is None:
                continue
            if number in spoilt:
                junk = av.Packet(b"\xff" * packet.size)
                junk.pts, junk.dts, junk.time_base = packet.pts, packet.dts, packet.time_base
                packet = junk
            packet.stream = stream
            new.mux(packet)


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "mpeg4", {}),
        ("a.mp4", "mpeg4", {}),
        ("a.avi", "mjpeg", {"pixels": "yuvj420p"}),
        ("a.webm", "libvpx-vp9", {"g": "0"}),
        ("b.webm", "libvpx", {"auto_alt_ref": "1", "lag_in_frames": "16"}),
    ],
)
def test_a_packet_that_cannot_be_decoded_costs_its_frame(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], decoder: DecoderName
) -> None:
    whole = tmp_path / ("whole" + Path(name).suffix)
    encode(whole, coloured_frames(100), codec, **({"g": "10"} | options))
    spoil(whole, tmp_path / name, [35])
    numbers, times, reader = seen(tmp_path / name, decoder)
    lost = sorted(set(range(100)) - set(numbers))
    # VP8 has packets that show nothing, so that the 35th is another frame.
    assert len(lost) == 1
    assert lost == [35] or codec == "libvpx"
    assert numbers == [number for number in range(100) if number not in lost]
    np.testing.assert_allclose(times, np.delete(np.arange(100), lost) / 25, atol=2e-3)
    assert reader.timing.duration == pytest.approx(4.0, abs=2e-3)
    assert reader.flaws.lost_frames == len(lost)
    assert reader.flaws.damaged_after_seconds is None
    for start, end in reader.flaws.lost_spans_seconds:
        assert (start, end) == pytest.approx((lost[0] / 25, (lost[-1] + 1) / 25), abs=2e-3)


def test_places_of_lost_frames_are_told(tmp_path: Path) -> None:
    encode(tmp_path / "whole.avi", coloured_frames(60), "mjpeg", pixels="yuvj420p")
    spoil(tmp_path / "whole.avi", tmp_path / "a.avi", [0, 20, 21, 40])
    numbers, times, reader = seen(tmp_path / "a.avi", "auto")
    assert numbers == [n for n in range(60) if n not in (0, 20, 21, 40)]
    np.testing.assert_allclose(times[:2], [0, 0.04], atol=1e-6)
    assert reader.flaws.to_record() == {
        "lost_frames": 4,
        "lost_spans_seconds": [[-0.04, 0.0], [0.76, 0.84], [1.56, 1.6]],
    }


@pytest.mark.parametrize("decoder", READERS)
def test_frames_that_do_not_decode_up_to_the_end_are_damage(
    tmp_path: Path, decoder: DecoderName
) -> None:
    encode(tmp_path / "whole.mkv", coloured_frames(60), "mjpeg", pixels="yuvj420p")
    spoil(tmp_path / "whole.mkv", tmp_path / "a.mkv", range(30, 60))
    _, _, reader = seen(tmp_path / "a.mkv", decoder)
    assert reader.flaws.damaged_after_seconds == pytest.approx(1.2, abs=2e-3)
    assert reader.flaws.lost_frames == 30


# a, b, c, d of display matrices, and what they do to a picture (H, W, 3).
ORIENTATIONS: dict[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]] = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: np.rot90(image.swapaxes(0, 1), 2),
}


def matrix_of(a: float, b: float, c: float, d: float) -> list[int]:
    fixed = [round(65536 * value) for value in (a, b, c, d)]
    return [fixed[0], fixed[1], 0, fixed[2], fixed[3], 0, 0, 0, 1 << 30]


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("letters", ORIENTATIONS)
def test_all_eight_orientations_are_shown_upright(
    tmp_path: Path, letters: tuple[int, int, int, int], decoder: DecoderName
) -> None:
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:48, :64], picture[:48, 64:], picture[48:, :64] = (0, 0, 255), (0, 255, 0), (255, 0, 0)
    encode(tmp_path / "a.mp4", [picture] * 3, "libx264", matrix=matrix_of(*letters))
    reader = VideoReader(tmp_path / "a.mp4", decoder=decoder)
    _, (shown,) = reader.gather(lambda _timing: np.array([1]), lambda image: image)
    wanted = ORIENTATIONS[letters](picture)
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).mean() < 12
    assert reader.flaws == NO_FLAWS


@pytest.mark.parametrize("letters", [(0.707, 0.707, -0.707, 0.707), (1, 0.5, 0, 1), (0, 0, 0, 0)])
def test_other_matrices_are_said_and_left_alone(
    tmp_path: Path, letters: tuple[float, float, float, float]
) -> None:
    assert Orientation.of_matrix(matrix_of(*letters)) is None
    encode(tmp_path / "a.mp4", coloured_frames(5), "libx264", matrix=matrix_of(*letters))
    for decoder in READERS:
        numbers, _, reader = seen(tmp_path / "a.mp4", decoder)
        assert numbers == list(range(5))
        (note,) = reader.flaws.notes
        assert note.startswith("its display matrix is neither a turn by 90 degrees nor a mirror")


def joined(path: Path, rates: Sequence[int], codecs: Sequence[str]) -> None:
    """Recordings of 25 frames, one after the other in one transport stream."""
    parts = []
    for place, (rate, codec) in enumerate(zip(rates, codecs, strict=True)):
        file = io.BytesIO()
        frames = coloured_frames(100)[25 * place : 25 * place + 25]
        encode(file, frames, codec, rate=rate, container_format="mpegts", bf="0")
        parts.append(file.getvalue())
    path.write_bytes(b"".join(parts))


@pytest.mark.parametrize("decoder", READERS)
def test_joined_parts_keep_their_rates(tmp_path: Path, decoder: DecoderName) -> None:
    joined(tmp_path / "a.ts", (25, 5, 50), ["libx264"] * 3)
    numbers, times, reader = seen(tmp_path / "a.ts", decoder)
    assert numbers == list(range(75))
    steps = [*[0.04] * 25, *[0.2] * 25, *[0.02] * 24]
    np.testing.assert_allclose(times, [0, *itertools.accumulate(steps)], atol=2e-3)
    assert reader.flaws.notes == (
        "its clock begins anew at 1.0 s, 6.0 s; the parts are laid end to end",
    )


def test_a_codec_that_changes_in_a_transport_stream_is_said(tmp_path: Path) -> None:
    joined(tmp_path / "a.ts", (25, 25), ("libx264", "mpeg2video"))
    for decoder in READERS:
        _, _, reader = seen(tmp_path / "a.ts", decoder)
        assert reader.flaws.notes[-1] == (
            "its program changes on the way: H.264 (PID 256), then MPEG-2 (PID 256); only one of "
            "them is shown"
        )


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_pause_of_ten_minutes_is_one(tmp_path: Path, name: str, decoder: DecoderName) -> None:
    times = [40 * n + (600_000 if n >= 50 else 0) for n in range(100)]
    encode(tmp_path / name, coloured_frames(100), "libx264", times=times)
    numbers, shown, reader = seen(tmp_path / name, decoder)
    assert numbers == list(range(100))
    np.testing.assert_allclose(shown, np.array(times) / 1000, atol=2e-3)
    assert reader.flaws == NO_FLAWS


@pytest.mark.parametrize("decoder", READERS)
def test_the_last_frame_stands_as_long_as_its_file_says(
    tmp_path: Path, decoder: DecoderName
) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number, image in enumerate(coloured_frames(50)):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in stream.encode(frame):
                packet.duration = (60 if number == 49 else 0.04) / packet.time_base
                container.mux(packet)
    _, times, reader = seen(path, decoder)
    assert times[-1] == pytest.approx(1.96)
    assert reader.timing.duration == pytest.approx(61.96, abs=2e-3)


@pytest.mark.parametrize("decoder", READERS)
def test_two_frames_with_one_timestamp_are_both_there(tmp_path: Path, decoder: DecoderName) -> None:
    encode(tmp_path / "a.mkv", coloured_frames(50), "mjpeg", pixels="yuvj420p")
    with av.open(str(tmp_path / "a.mkv")) as old, av.open(str(tmp_path / "b.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.pts = packet.dts = packet.pts // 80 * 80
                packet.stream = stream
                new.mux(packet)
    numbers, times, reader = seen(tmp_path / "b.mkv", decoder)
    assert numbers == list(range(50))
    np.testing.assert_allclose(times, np.arange(50) // 2 * 0.08, atol=1e-4)
    assert reader.flaws == NO_FLAWS


def test_an_encrypted_video_says_so(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", coloured_frames(5), "libx264")
    content = (tmp_path / "a.mp4").read_bytes()
    place = content.index(b"avc1", content.index(b"stsd"))
    (tmp_path / "a.mp4").write_bytes(content[:place] + b"encv" + content[place + 4 :])
    for decoder in READERS:
        with pytest.raises(VideoError, match="is encrypted; decrypt it"):
            VideoReader(tmp_path / "a.mp4", decoder=decoder)


@pytest.mark.parametrize("decoder", READERS)
def test_a_recording_that_begins_between_key_frames_lacks_its_beginning_alone(
    tmp_path: Path, decoder: DecoderName
) -> None:
    encode(tmp_path / "whole.mkv", coloured_frames(75), "libx264", g="25", bf="0")
    without(tmp_path / "whole.mkv", tmp_path / "a.mkv", range(10))
    numbers, times, reader = seen(tmp_path / "a.mkv", decoder)
    assert numbers == list(range(25, 75))
    np.testing.assert_allclose(times, np.arange(50) / 25, atol=2e-3)
    assert reader.flaws.to_record() == {
        "lost_frames": 15,
        "lost_spans_seconds": [[-0.6, 0.0]],
    }


def without(source: Path, target: Path, left_out: Sequence[int]) -> None:
    """Copy a video but for some packets."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(old.streams.video[0])):
            if packet.dts is not None and number not in left_out:
                packet.stream = stream
                new.mux(packet)


@pytest.mark.parametrize("decoder", READERS)
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_with_reordered_frames_has_its_times_to_the_end(
    tmp_path: Path, codec: str, decoder: DecoderName
) -> None:
    encode(tmp_path / "a.avi", coloured_frames(75), codec, bf="2", g="25")
    numbers, times, reader = seen(tmp_path / "a.avi", decoder)
    assert numbers == list(range(75))
    np.testing.assert_allclose(times, np.arange(75) / 25, atol=2e-3)
    assert reader.flaws == NO_FLAWS


@pytest.mark.parametrize("decoder", READERS)
def test_sound_before_the_first_frame_is_no_part_of_the_video(
    tmp_path: Path, decoder: DecoderName
) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for number, image in enumerate(coloured_frames(50)):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = 100_000 + 40 * number, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number in range(800):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.rate, samples.pts = 8000, 1024 * number
            container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    numbers, times, reader = seen(tmp_path / "a.mp4", decoder)
    assert numbers == list(range(50))
    assert times[-1] == pytest.approx(1.96, abs=2e-3)
    assert reader.timing.duration == pytest.approx(2.0, abs=2e-3)
    assert reader.announced_seconds == pytest.approx(2.0, abs=2e-3)
    assert reader.flaws == NO_FLAWS


def test_lost_packets_of_a_transport_stream_are_told(tmp_path: Path) -> None:
    whole = io.BytesIO()
    encode(whole, coloured_frames(100), "libx264", container_format="mpegts", g="25", bf="0")
    content = whole.getvalue()
    middle = len(content) // 188 // 2 * 188
    (tmp_path / "whole.ts").write_bytes(content)
    (tmp_path / "a.ts").write_bytes(content[:middle] + content[middle + 6 * 188 :])
    assert seen(tmp_path / "whole.ts", "auto")[2].flaws == NO_FLAWS
    _, times, reader = seen(tmp_path / "a.ts", "auto")
    assert times[-1] == pytest.approx(3.96, abs=2e-3)
    (note,) = reader.flaws.notes
    assert note.startswith("its stream has gaps at ")
    assert 0.0 < float(note.split()[5]) < 4.0


def with_a_picture_first(path: Path) -> None:
    """A stream of one large picture, then the video."""
    with av.open(str(path), "w") as container:
        still = container.add_stream("mjpeg", rate=1)
        still.width, still.height, still.pix_fmt = 640, 480, "yuvj420p"
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        for stream, rate, images in (
            (still, 1, [np.zeros((480, 640, 3), np.uint8)]),
            (video, 25, coloured_frames(50)),
        ):
            for number, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts, frame.time_base = number, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def test_packets_and_frames_are_those_of_one_stream(tmp_path: Path) -> None:
    """FFmpeg takes the best stream of several for the video, OpenCV the first."""
    with_a_picture_first(tmp_path / "a.mkv")
    for decoder in ("auto", "pyav"):
        numbers, _, reader = seen(tmp_path / "a.mkv", decoder)
        assert numbers == list(range(50))
        assert reader.flaws == NO_FLAWS
    with pytest.raises(VideoError, match="several streams of pictures, of which OpenCV decodes"):
        VideoReader(tmp_path / "a.mkv", decoder="opencv")
