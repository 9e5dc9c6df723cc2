"""The Classifier: the one place that knows the whole way from a video file to a prediction."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Literal, Self

import numpy as np

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.files import StrPath, as_path, sha256_of
from stdeploy.artifacts.frames import Frames, on_host
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import Backend, ClosesOnExit, Device, RunsClips, RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.backends.streams import ClipsOfStreams, StreamRuntime
from stdeploy.errors import SpecError, VideoError
from stdeploy.inference.classify_options import DEFAULT_CLASSIFY as DEFAULT_CLASSIFY
from stdeploy.inference.classify_options import ClassifyOptions as ClassifyOptions
from stdeploy.inference.clip_batches import ClipBatches, DecodedVideo
from stdeploy.inference.dense_windows import Trunk
from stdeploy.inference.live_answers import LiveAnswer, live_answers
from stdeploy.inference.live_sources import NO_HOOKS, Hooks, LiveSources, answers_of, open_sources
from stdeploy.inference.ordered_map import ordered_map
from stdeploy.inference.prediction import Prediction, rank, softmax
from stdeploy.inference.timeline import (
    DEFAULT_LEAVE,
    Cell,
    Timeline,
    TimelineMaker,
    TimelineOptions,
)
from stdeploy.inference.window_scores import ScoredWindow, WindowScorer
from stdeploy.video.clips import ClipRequest, Clips, ReadClips, clips_of_frames, read_clips
from stdeploy.video.decoder import DecoderName
from stdeploy.video.libraries import decodes_on_gpu
from stdeploy.video.live_reader import LiveSource
from stdeploy.video.live_worker import Pictures
from stdeploy.video.opencv import one_thread_each
from stdeploy.video.video_files import FRAMES, FileSource, VideoSource, as_file


@dataclasses.dataclass(frozen=True)
class ClassifiedVideo:
    """One row of many: a prediction, or why there is none.

    Attributes:
        video: as the caller gave it.
        prediction: None where the video gave no clip.
        error: None where there is a prediction; its text says why, without the path.
    """

    video: Path
    prediction: Prediction | None
    error: VideoError | None


class Classifier(ClosesOnExit):
    """An opened artifact that classifies video files; a context manager.

    Args:
        runtime: runs the network.
        card: of the artifact.
        artifact_sha256: its digest.
        options: views, batches, how many videos at once.
        read: how clips are read: in this process, or by a `DecodePool` for files that are not
            trusted.
        give_up: ends reading that is under way, when its clips are not wanted any more.
    """

    def __init__(
        self,
        runtime: RunsClips,
        card: ModelCard,
        *,
        artifact_sha256: str,
        options: ClassifyOptions = DEFAULT_CLASSIFY,
        read: ReadClips = read_clips,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.runtime = runtime
        self.card = card
        self.views = card.clip.views if options.views is None else options.views
        self.crops = options.crops
        self.jobs = options.decoding_jobs
        self._batch = options.batch
        self._read = read
        self._request = ClipRequest(
            clip=card.clip,
            views=self.views,
            crops=options.crops,
            decoder=options.decoder,
            large_on_gpu=runtime.device_type == "cuda" and decodes_on_gpu(options.decoder),
        )
        self._artifact_sha256 = artifact_sha256
        self._give_up = give_up

    @classmethod
    def open(
        cls,
        artifact: StrPath,
        *,
        backend: Backend = "auto",
        device: Device = "auto",
        precision: Precision | None = None,
        allow_cpu: bool = False,
        threads: int | None = None,
        views: int | None = None,
        crops: Literal[1, 3] = 1,
        batch: int = 1,
        jobs: int | None = None,
        decoder: DecoderName = "auto",
        options: ClassifyOptions | None = None,
        runtime_options: RuntimeOptions | None = None,
        read: ReadClips = read_clips,
        give_up: Callable[[], None] = lambda: None,
    ) -> Self:
        """Open an artifact and verify it with its golden clip.

        Args:
            artifact: a .onnx, .engine, .fused.safetensors or .pt file.
            backend: see `RuntimeOptions`, as for the four that follow. What is asked for is given
                or refused.
            device: "auto" takes an NVIDIA GPU where there is one.
            precision: arithmetic of the convolutions; None takes the artifact's.
            allow_cpu: run on the CPU where the GPU that was asked for cannot be used.
            threads: of the CPU; None leaves it to the backend.
            views: see `ClassifyOptions`, as for the four that follow.
            crops: of each view.
            batch: clips that the network gets at once.
            jobs: videos decoded at once.
            decoder: the library that reads them; "nvdec" is a GPU.
            options: in place of views to decoder, for several classifiers.
            runtime_options: in place of backend to threads, likewise; it has more of them.
            read: see above.
            give_up: likewise.

        Raises:
            ArtifactError: it cannot be used.
            BackendError: what runs it is not installed, or "nvdec" cannot be used here.
            SpecError: an argument that is not possible.
        """
        artifact = as_path(artifact, "an artifact")
        options = options or ClassifyOptions(
            views=views, crops=crops, batch=batch, jobs=jobs, decoder=decoder
        )
        runtime_options = runtime_options or RuntimeOptions(
            backend=backend,
            device=device,
            precision=precision,
            allow_cpu=allow_cpu,
            threads=threads,
        )
        card = read_card(artifact)
        return cls(
            open_runtime(artifact, card, runtime_options),
            card,
            artifact_sha256=sha256_of(artifact),
            options=options,
            read=read,
            give_up=give_up,
        )

    def classify(self, video: VideoSource, *, fps: float | None = None) -> Prediction:
        """Classify one video.

        Args:
            video: a file's path, its bytes, an open binary file, or frames: uint8 (F, H, W, 3),
                RGB.
            fps: of frames, which alone need it: how many are shown in a second.

        Raises:
            VideoError: it gives no clip; the message says why, without the path.
            SpecError: none of these kinds.
        """
        if isinstance(video, np.ndarray):
            if fps is None:
                raise SpecError("frames need fps: how many of them are shown in a second")
            start = time.perf_counter()
            clips = clips_of_frames(video, fps, self._request)
            taken = 1e3 * (time.perf_counter() - start)
            decoded = DecodedVideo(Path(FRAMES), clips, None, taken)
        elif fps is not None:
            raise SpecError("fps is for frames; a file has its own times, so leave it out")
        else:
            with as_file(video) as (path, name):
                decoded = dataclasses.replace(self._decode(path), video=Path(name))
        batches = ClipBatches(self.runtime, self._batch)
        (done,) = [*batches.add(decoded), *batches.finish()]
        return self._prediction(done)

    def classify_many(self, videos: Iterable[StrPath]) -> Iterator[ClassifiedVideo]:
        """Classify video files; a broken one gives its error and the rest go on.

        Some are decoded while others are in the network, and clips of several share its batches.

        Yields:
            A row for each, in the order in which they came.

        Raises:
            SpecError: a path that is none.
        """
        paths = (as_path(video, "a video") for video in videos)
        batches = ClipBatches(self.runtime, self._batch)
        with one_thread_each(self.jobs):
            decoded = ordered_map(
                self._decode, paths, threads=self.jobs, ahead=self.jobs, give_up=self._give_up
            )
            with contextlib.closing(decoded):
                for _, video in decoded:
                    yield from map(self._row, batches.add(video))
            yield from map(self._row, batches.finish())

    def classify_clips(self, frames: Frames) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Labels and scores, best first, of clips (N, T, H, W, 3) whose logits are averaged."""
        return rank(self.runtime.run(frames), self.card.labels)

    def clips(self, video: Path) -> Clips:
        """Decode the clips of a video that `classify` would show to the network.

        Raises:
            VideoError: it gives no clip; the message says why, without the path.
        """
        (clips,) = self._read(video, self._request)
        return dataclasses.replace(clips, frames=on_host(clips.frames))

    @property
    def decoder(self) -> DecoderName:
        """Which library is to decode."""
        return self._request.decoder

    def timeline(
        self,
        video: FileSource,
        options: TimelineOptions | None = None,
        *,
        hop_seconds: float = 1.0,
        enter: float = 0.5,
        leave: float | None = None,
        top_k: int = 5,
        cuts: bool = True,
        trunk: Trunk | None = None,
        progress: Callable[[float, float], None] = lambda _done, _of: None,
        window: Callable[[Cell], None] = lambda _cell: None,
    ) -> Timeline:
        """Classify windows all along a video; an hour needs as much memory as a minute.

        Args:
            video: a file's path, its bytes, or an open binary file.
            options: the five that follow in one object; they then do not count.
            hop_seconds: see `TimelineOptions`. With a trunk it is rounded to whole frames.
            enter: likewise.
            leave: likewise; None is 0.3, or `enter` where that is lower.
            top_k: likewise.
            cuts: likewise.
            trunk: of the same artifact; windows then share its work, see dense.py.
            progress: is told how many seconds are done, and of how many.
            window: is told of each window, one behind the network.

        Raises:
            VideoError: it gives no clip, or is damaged on the way.
            SpecError: an argument that is not possible.
        """
        if options is None:
            options = TimelineOptions(
                hop_seconds=hop_seconds,
                enter=enter,
                leave=min(DEFAULT_LEAVE, enter) if leave is None else leave,
                top_k=top_k,
                cuts=cuts,
            )
        with as_file(video) as (path, name):
            return self._timeline(path, name, options, trunk, progress, window)

    def watch(
        self,
        source: str | int,
        *,
        hop_seconds: float = 0.5,
        reconnect: bool | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> Generator[LiveAnswer]:
        """Classify live video: the newest frames win, what comes in meanwhile is left out.

        Args:
            source: the number of a camera, a URL (rtsp, http, udp, ...), or "-" for a pipe.
            hop_seconds: from one answer to the next at least; 0 goes on without pause.
            reconnect: open a source again that breaks off or is not there yet; None means all
                but pipes, and one that was never there 5 times.
            report: is told in words when the source breaks off and comes back.

        Returns:
            Answers as they come; close it, or leave the loop, to stop reading.

        Raises:
            SpecError: no such kind of source.
            VideoError: the source cannot be opened or read, or ends without a frame; while
                answers are taken.
        """
        if isinstance(self.runtime, ClipsOfStreams):
            hooks = Hooks(report=lambda _source, text: report(text))
            return answers_of(
                self.watch_all([source], hop_seconds=hop_seconds, reconnect=reconnect, hooks=hooks)
            )
        return live_answers(
            source,
            self.card.clip,
            self.classify_clips,
            hop_seconds=hop_seconds,
            reconnect=reconnect,
            report=report,
        )

    def watch_all(
        self,
        sources: Iterable[str | int | LiveSource],
        *,
        hop_seconds: float = 0.5,
        reconnect: bool | None = None,
        batch: int | None = None,
        pictures: Pictures | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> LiveSources:
        """Classify many live sources at once.

        Each is read by a process of its own, and the one that waits longest is answered first: so
        one which stalls, breaks off, sends garbage or crashes its decoder holds up no other.

        Args:
            sources: numbers of cameras, URLs, "-" for a pipe, or paths of files, which are played
                in real time; or `LiveSource`, which names them and says more.
            hop_seconds: from one answer about a source to the next, on average at least; 0 goes
                on without pause.
            reconnect: of sources that do not say it themselves, see `LiveSource`.
            batch: sources in the network at once, at most; None is 8 on a GPU and 1 on a CPU.
            pictures: to look at, for `hooks.picture`; None for none.
            hooks: are told of answers, pictures and what happens to sources.

        Returns:
            A context manager; iterating over it gives a `SourceAnswer` after the other until all
            sources have ended, `statuses()` says how they do.

        Raises:
            SpecError: no such kind of source, two of one name, or a number that is not possible.
        """
        return open_sources(
            sources,
            self.runtime,
            self.card,
            hop_seconds=hop_seconds,
            reconnect=reconnect,
            batch=batch,
            pictures=pictures,
            hooks=hooks,
        )

    def _timeline(
        self,
        video: Path,
        name: str,
        options: TimelineOptions,
        trunk: Trunk | None,
        progress: Callable[[float, float], None],
        window: Callable[[Cell], None],
    ) -> Timeline:
        clip = self.card.clip
        scorer = WindowScorer(self.runtime, self._read, self._request, self._batch)
        shared: Trunk | StreamRuntime | None = trunk
        stride = 1
        if isinstance(self.runtime, ClipsOfStreams):
            shared, stride = self.runtime.streams, self.runtime.streams.spec.stride_frames
        if shared is not None:
            hop_frames = (
                max(1, round(options.hop_seconds / clip.interval_seconds / stride)) * stride
            )
            options = dataclasses.replace(options, hop_seconds=hop_frames * clip.interval_seconds)
            scores = scorer.dense(video, shared, hop_frames, options)
        else:
            scores = scorer.windows(video, options)
        maker = TimelineMaker(clip.span_seconds, options, self.card.labels)
        scored: ScoredWindow | None = None
        for scored in scores:
            before = maker.add(softmax(scored.logits), shot=scored.shot_seconds)
            if before is not None:
                window(before)
            done, duration = 0.0 if before is None else before.end, scored.duration_seconds
            progress(min(done, duration), duration)
        if scored is None:
            raise VideoError("gives no window")
        cells, segments = maker.finish(scored.duration_seconds)
        window(cells[-1])
        return Timeline(
            video=name,
            labels=self.card.labels,
            duration_seconds=scored.duration_seconds,
            flaws=scored.flaws,
            options=options,
            cells=cells,
            segments=segments,
            cuts_seconds=maker.cuts if options.cuts else None,
            how="windows" if shared is None else "dense",
            device=self._device,
            artifact_sha256=self._artifact_sha256,
        )

    def close(self) -> None:
        """Close the runtime."""
        self.runtime.close()

    def _decode(self, video: Path) -> DecodedVideo:
        start = time.perf_counter()
        clips, found = None, None
        try:
            (clips,) = self._read(video, self._request)
        except VideoError as error:
            found = error
        return DecodedVideo(video, clips, found, 1e3 * (time.perf_counter() - start))

    @property
    def _device(self) -> str:
        return f"{self.runtime.name} on {self.runtime.device}"

    def _row(self, decoded: DecodedVideo) -> ClassifiedVideo:
        prediction = None if decoded.error is not None else self._prediction(decoded)
        return ClassifiedVideo(decoded.video, prediction, decoded.error)

    def _prediction(self, decoded: DecodedVideo) -> Prediction:
        """What comes of a video whose clips are all done; raises the error of one without any."""
        if decoded.clips is None:
            assert decoded.error is not None
            raise decoded.error
        view_logits = np.stack(decoded.logits)
        labels, scores = rank(view_logits, self.card.labels)
        shown = decoded.clips.times_seconds
        return Prediction(
            video=str(decoded.video),
            labels=labels,
            scores=scores,
            view_logits=view_logits,
            view_spans_seconds=tuple((float(t.min()), float(t.max())) for t in shown),
            duration_seconds=decoded.clips.duration_seconds,
            flaws=decoded.clips.flaws,
            timings_ms={"decode": decoded.decode_ms, "infer": decoded.infer_ms},
            device=self._device,
            artifact_sha256=self._artifact_sha256,
        )
