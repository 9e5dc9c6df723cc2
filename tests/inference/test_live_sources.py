"""Many sources and one network: whose turn it is, and what misbehaving sources do to others."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import stdeploy
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.backends.streams import ClipsOfStreams
from stdeploy.errors import SpecError
from stdeploy.export.stream import export_stream
from stdeploy.fusion import fuse_model
from stdeploy.inference.live_networks import Input, StreamNetwork, WindowBuffer
from stdeploy.inference.live_sources import Hooks, LiveSources, SourceAnswer
from stdeploy.inference.prediction import rank
from stdeploy.models.checkpoint import save_fused
from stdeploy.video.live_reader import DueFrame, LivePicture, LiveSource
from stdeploy.video.live_worker import Pictures
from stdeploy.video.reader import VideoReader
from stdeploy.video.transform import clip_frame
from tests.data.files import TINY_ONNX
from tests.helpers.live_sender import RATE, garbage, readers_of, sending, write_film
from tests.helpers.models import card_of, tiny_model
from tests.helpers.toy_stream import ToyStream, ToyStreamRuntime

CLIP = ClipSpec(num_frames=1, frame_stride=2, fps=20.0, short_side_px=16, crop_px=16)


class Recorded:
    """A network whose answers do not matter, only who is asked about: each frame is one number."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def buffer(self, hop_seconds: float) -> WindowBuffer:
        return WindowBuffer(1, hop_seconds)

    def run(self, inputs: Sequence[Input]) -> np.ndarray:
        self.batches.append([int(each.frames[0, 0, 0, 0]) for each in inputs])
        return np.zeros((len(inputs), 2), np.float32)


def unread(count: int, network: Recorded, **options: object) -> LiveSources:
    """Sources whose frames the test gives, instead of readers."""
    sources = [LiveSource(address=str(number)) for number in range(count)]
    return LiveSources(sources, network, CLIP, ("a", "b"), **options)  # type: ignore[arg-type]


def give(live: LiveSources, place: int, seconds: float, arrived: float) -> None:
    image = np.full((16, 16, 3), place, np.uint8)
    live._feeds[place].frame(DueFrame(image, seconds, arrived))


def test_the_source_that_waits_longest_comes_first_and_batches_go_across_sources() -> None:
    network = Recorded()
    live = unread(5, network, hop_seconds=1.0, batch=2)
    for place, arrived in enumerate((5.0, 3.0, 4.0, 1.0, 2.0)):
        give(live, place, 0.0, arrived)
    give(live, 3, 0.5, 6.0)  # newer frames do not put a source back
    answers = live.answers()
    names = [next(answers).source for _ in range(5)]
    assert network.batches == [[3, 4], [1, 2], [0]]
    assert names == [f"camera {place}" for place in (3, 4, 1, 2, 0)]
    assert next(iter([each.source for each in live.statuses()])) == "camera 0"


def test_a_source_at_a_high_rate_starves_no_other() -> None:
    network = Recorded()
    live = unread(3, network, hop_seconds=0.0)
    answers = live.answers()
    counts: Counter[str] = Counter()
    longest: Counter[str] = Counter()
    last: dict[str, int] = {}
    for turn in range(300):
        for part in range(10):
            now = turn * 0.01 + part * 0.001
            give(live, 0, now, now)  # ten frames between every two answers
        give(live, 1, now, now)
        give(live, 2, now, now)
        name = next(answers).source
        counts[name] += 1
        longest[name] = max(longest[name], turn - last.get(name, turn))
        last[name] = turn
    assert min(counts.values()) >= 75
    assert max(longest.values()) <= 4  # turns from one answer to the next
    dropped = [status.dropped for status in live.statuses()]
    assert dropped == [
        pytest.approx(given - counts[f"camera {place}"], abs=1)
        for place, given in enumerate((3000, 300, 300))
    ]


def test_what_is_not_possible_is_refused() -> None:
    with pytest.raises(SpecError, match="no source to watch"):
        LiveSources([], Recorded(), CLIP, ("a", "b"))
    with pytest.raises(SpecError, match="batch = 0"):
        unread(1, Recorded(), batch=0)
    with stdeploy.Classifier.open(TINY_ONNX, backend="onnxruntime") as classifier:
        with pytest.raises(SpecError, match="hop_seconds = nan"):
            classifier.watch_all(["0"], hop_seconds=float("nan"))
        with pytest.raises(SpecError, match="two sources are named 'camera 0'"):
            classifier.watch_all([0, "0"])


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "short.ts", 2.0)
    write_film(folder / "long.ts", 4.0)
    return folder


@pytest.fixture(scope="module")
def classifier() -> Iterator[stdeploy.Classifier]:
    with stdeploy.Classifier.open(TINY_ONNX, backend="onnxruntime", threads=1) as opened:
        yield opened


def test_files_are_answered_to_their_ends(classifier: stdeploy.Classifier, films: Path) -> None:
    told: list[tuple[str, str]] = []
    hooked: list[SourceAnswer] = []
    batches: list[int] = []
    pictures: list[LivePicture] = []
    hooks = Hooks(
        report=lambda source, text: told.append((source, text)),
        answer=hooked.append,
        batch=lambda count, _seconds: batches.append(count),
        picture=pictures.append,
    )
    sources = [str(films / "short.ts"), LiveSource(address=str(films / "long.ts"), name="long")]
    with classifier.watch_all(sources, hop_seconds=0.4, pictures=Pictures(), hooks=hooks) as live:
        answers = list(live)
        statuses = live.statuses()
    assert hooked == answers
    assert sum(batches) == len(answers)
    assert {picture.source for picture in pictures} == {"short.ts", "long"}
    assert dict(told) == {"short.ts": "the source has ended", "long": "the source has ended"}
    for status, duration in zip(statuses, (2.0, 4.0), strict=True):
        mine = [answer for answer in answers if answer.source == status.source]
        assert len(mine) == status.answers > 0
        assert status.state == "ended"
        assert status.reconnects == 0
        assert status.answer == mine[-1]
        times = [answer.stream_seconds for answer in mine]
        assert times == sorted(set(times))
        assert duration - 1.5 < times[-1] < duration
        for answer in mine:
            assert sorted(answer.labels) == sorted(classifier.card.labels)
            assert sum(answer.scores) == pytest.approx(1)
            assert abs(answer.time - time.time()) < 120
    assert live.errors() == []
    assert readers_of(os.getpid()) == []


def test_a_window_gives_the_numbers_of_its_frames(
    classifier: stdeploy.Classifier, films: Path
) -> None:
    """What the network says of a window, against the same frames of the file, read otherwise."""
    clip = classifier.card.clip
    with classifier.watch_all([str(films / "short.ts")], hop_seconds=0.0) as live:
        answers = list(live)
    due, wanted = [], 0.0
    for number in range(50):
        seconds = number / RATE
        if seconds >= wanted - clip.interval_seconds / 100:
            wanted = max(wanted + clip.interval_seconds, seconds + clip.interval_seconds / 2)
            due.append(number)
    assert len(answers) >= 2
    images = list(VideoReader(films / "short.ts").images(due))
    for answer in answers:
        end = due.index(round(answer.stream_seconds * RATE)) + 1
        window = images[end - clip.num_frames : end]
        frames = np.stack([clip_frame(image, clip) for image in window])
        labels, scores = classifier.classify_clips(frames[None])
        assert labels == answer.labels
        assert answer.scores == pytest.approx(scores, abs=1e-5)


def test_sources_that_misbehave_hurt_no_other(classifier: stdeploy.Classifier, films: Path) -> None:
    content = (films / "long.ts").read_bytes()
    told: list[tuple[str, str]] = []
    with (
        sending(content * 10, 40.0) as good,
        sending(content[: len(content) // 2], 2.0) as dying,
        sending(content * 10, 40.0) as stalling,
        sending(garbage(40.0), 40.0) as wrong,
        sending(content * 20, 30.0) as fast,  # more than twice as fast
    ):
        sources = [
            LiveSource(address=sender.url, name=name)
            for name, sender in (
                ("good", good),
                ("dying", dying),
                ("stalling", stalling),
                ("wrong", wrong),
                ("fast", fast),
            )
        ]
        hooks = Hooks(report=lambda source, text: told.append((source, text)))
        seen: dict[str, set[str]] = {source.name: set() for source in sources}
        good_answers: list[SourceAnswer] = []
        stalled_at: float | None = None
        start = time.monotonic()
        with classifier.watch_all(sources, hop_seconds=0.25, hooks=hooks) as live:
            for answer in live:
                if answer.source == "good":
                    good_answers.append(answer)
                statuses = {status.source: status for status in live.statuses()}
                for name, status in statuses.items():
                    seen[name].add(status.state)
                if statuses["stalling"].answers and stalled_at is None:
                    stalling.paused.set()
                    stalled_at = time.monotonic()
                wanted = (
                    "stalled" in seen["stalling"]
                    and statuses["dying"].reconnects >= 1
                    and len(good_answers) >= 12
                    and statuses["fast"].answers >= 5
                )
                if wanted or time.monotonic() - start > 90:
                    break
            end = {status.source: status for status in live.statuses()}
    assert "stalled" in seen["stalling"]
    assert seen["good"] <= {"waiting", "live"}
    assert "live" in seen["good"]
    assert seen["wrong"] == {"waiting"}
    assert {"live", "broken"} <= seen["dying"]
    assert end["dying"].reconnects >= 1
    assert end["fast"].answers >= 5
    assert ("dying", "the source has ended; trying again in 1 s") in told
    steps = np.diff([answer.stream_seconds for answer in good_answers])
    assert np.median(steps) < 0.6  # a hop of 0.25 s, on a busy machine
    assert readers_of(os.getpid()) == []


def test_a_source_that_never_gives_a_frame_is_an_error(classifier: stdeploy.Classifier) -> None:
    sources = [LiveSource(address="tcp://127.0.0.1:9", name="away", reconnect=False)]
    with classifier.watch_all(sources) as live:
        assert list(live) == []
    (error,) = live.errors()
    assert str(error) == "away: the source cannot be opened, or sends no video"


def test_streams_with_state_are_driven_from_real_sources(films: Path) -> None:
    runtime = ToyStreamRuntime(2)
    network = StreamNetwork[ToyStream](runtime, CLIP)
    sources = [LiveSource(address=str(films / "short.ts"), name=name) for name in ("one", "two")]
    live = LiveSources(sources, network, CLIP, tuple("abcde"), hop_seconds=0.0, batch=4)
    with live:
        answers = list(live)
    for status in live.statuses():
        mine = [answer for answer in answers if answer.source == status.source]
        assert status.frames == 20
        assert status.dropped == 0
        assert len(mine) == 10
        assert np.diff([answer.stream_seconds for answer in mine]) == pytest.approx(0.2, abs=0.041)
    assert runtime.begun == 2
    # Both played the same file: the same frames, in the same order, give the same last answer.
    last = {answer.source: answer for answer in answers}
    assert last["one"].scores == pytest.approx(last["two"].scores, abs=1e-6)


def test_an_artifact_for_streams_is_fed_every_frame_in_order(films: Path, tmp_path: Path) -> None:
    """What is said of two sources is what the network says of the file's frames, one by one."""
    model = fuse_model(tiny_model(causal=True)).float()
    save_fused(tmp_path / "a.fused.safetensors", model, card_of(model))
    artifact = export_stream(tmp_path / "a.fused.safetensors", window=8).path
    sources = [LiveSource(address=str(films / "long.ts"), name=name) for name in ("one", "two")]
    with stdeploy.Classifier.open(artifact, backend="onnxruntime", threads=1) as opened:
        with opened.watch_all(sources, hop_seconds=0.0, batch=2) as live:
            answers = list(live)
        assert isinstance(opened.runtime, ClipsOfStreams)
        runtime = opened.runtime.streams
        clip = opened.card.clip
        due, wanted = [], 0.0
        for number in range(100):
            seconds = number / RATE
            if seconds >= wanted - clip.interval_seconds / 100:
                wanted = max(wanted + clip.interval_seconds, seconds + clip.interval_seconds / 2)
                due.append(number)
        stream, expected = runtime.begin(), {}
        for number, image in zip(due, VideoReader(films / "long.ts").images(due), strict=True):
            logits = runtime.run(clip_frame(image, clip)[None, None], [stream])
            expected[number] = rank(logits, opened.card.labels)
    assert [status.dropped for status in live.statuses()] == [0, 0]
    first = (runtime.spec.delay_places + 1) * runtime.spec.stride_frames
    assert len(answers) == 2 * (len(due) - first + 1)
    for answer in answers:
        labels, scores = expected[round(answer.stream_seconds * RATE)]
        assert labels == answer.labels
        assert answer.scores == pytest.approx(scores, abs=1e-5)
