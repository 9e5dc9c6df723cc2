"""Videos to labels: read by the CPU and by the decoders of a GPU."""

import contextlib
import dataclasses
import importlib.util
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from load import MODULES, serve_and_ask
from networks import Where, checkpoint
from results import FAILED, IMPOSSIBLE, PASSED, Outcome
from usage import Usage, watched

from stdeploy.artifacts.files import fused_path
from stdeploy.artifacts.frames import on_host
from stdeploy.backends.base import RuntimeOptions
from stdeploy.errors import BackendError
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.video.decoder import DecoderName

READERS: tuple[DecoderName, ...] = ("opencv", "nvdec")
ROOT = Path(__file__).parents[2]
# Where GPU and CPU do not differ, both are 0; rounding of other arithmetic would be a few levels.
LEAST_PSNR_DB, LARGEST_LOGIT_ERROR = 40.0, 0.02
_SAME_DB = 99.0


@contextlib.contextmanager
def gpu_reader(where: Where) -> Iterator[str]:
    """Why there is none; empty where there is. In a rehearsal it is the stand-in of the tests."""
    if importlib.util.find_spec("av") is None:
        yield "PyAV is not installed, which knows the colours of files and writes H.264"
        return
    with contextlib.ExitStack() as opened:
        if where.rehearsal:
            from tests.helpers.nvdec_stand_in import stand_in

            opened.enter_context(stand_in())
        try:
            from stdeploy.video.nvdec import library

            library()
        except BackendError as error:
            yield str(error)
        else:
            yield ""


def write_h264(path: Path, width: int, height: int, frames: int) -> Path:
    """Write a scene that moves, with detail of many sizes, 30 frames a second."""
    import av

    rng = np.random.default_rng(0)
    scene = np.zeros((height, width, 3), np.float32)
    for size in (8, 32, 128):
        noise = rng.normal(0, 30, (max(2, height // size), max(2, width // size), 3))
        scene += cv2.resize(noise.astype(np.float32), (width, height))
    picture = np.clip(scene + 128, 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast", "g": "60"}
        for number in range(frames):
            moved = np.roll(picture, (number, 3 * number), axis=(0, 1))
            frame = av.VideoFrame.from_ndarray(moved, format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def readers(outcome: Outcome, where: Where) -> None:
    """Many small clips and clips of 1080p, by both readers; then their answers, compared."""
    with gpu_reader(where) as reason:
        if reason:
            outcome.add("reader", IMPOSSIBLE, reason)
            return
        small = write_h264(where.folder / "small.mp4", 340, 256, 30 if where.rehearsal else 300)
        size = (640, 360) if where.rehearsal else (1920, 1080)
        large = write_h264(where.folder / "large.mp4", *size, 15 if where.rehearsal else 300)
        many, few = (3, 2) if where.rehearsal else (60, 24)
        # Both of these read packets by PyAV, and so choose the same frames.
        with _classifiers(where, "pyav", "nvdec") as classifiers:
            compare(outcome, *classifiers.values(), [small, large, *shared()])
        with _classifiers(where, *READERS) as classifiers:
            for name, videos in (("small", [small] * many), ("1080p", [large] * few)):
                for reader, classifier in classifiers.items():
                    _measure(outcome, f"{name}, {reader}", classifier, videos)
            eight = dataclasses.replace(_options("opencv"), jobs=8)
            with _opened(where, eight) as classifier:
                _measure(outcome, "small, opencv, 8 at once", classifier, [small] * many)


def serving_nvdec(outcome: Outcome, where: Where) -> None:
    """Eight clients keep a server busy, which decodes on the GPU, or on the CPU."""
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        outcome.add("server", IMPOSSIBLE, f"{', '.join(missing)} not installed")
        return
    artifact = fused_path(checkpoint("kinetics", where))
    with gpu_reader(where) as reason:
        if reason:
            outcome.add("server", IMPOSSIBLE, reason)
            return
        size = (320, 180) if where.rehearsal else (1920, 1080)
        large = write_h264(where.folder / "served.mp4", *size, 15 if where.rehearsal else 300)
        how = ("--device", "cpu", "--threads", "1") if where.rehearsal else ("--device", "cuda")
        how += () if where.rehearsal else ("--precision", "bf16")
        for reader in READERS:
            usage = Usage()
            answers = serve_and_ask(
                artifact,
                (*how, "--reader", reader),
                seconds=2.0 if where.rehearsal else 10.0,
                video=large,
                watch=watched(usage),
            )
            said = f"{answers}, {usage}"
            outcome.add(f"server, {reader}", PASSED if answers.well else FAILED, said)


def shared() -> Sequence[Path]:
    """Videos of other people, where they lie beside the project or in it."""
    folders = [folder / "shared" / "videos" for folder in (ROOT.parent, ROOT)]
    return [path for folder in folders for path in sorted(folder.glob("*.[mw]*[4mv]"))]


def compare(outcome: Outcome, cpu: Classifier, gpu: Classifier, videos: Sequence[Path]) -> None:
    """Pictures and answers of both readers: PSNR, largest error of a logit, label."""
    compared = 0
    for video in videos:
        rows = [next(iter(classifier.classify_many([video]))) for classifier in (cpu, gpu)]
        expected, found = (row.prediction for row in rows)
        if expected is None or found is None:
            same = expected is None and found is None
            outcome.add(video.name, PASSED if same else FAILED, str(rows[1].error))
            continue
        if not any("on the GPU (NVDEC)" in note for note in found.flaws.notes):
            outcome.add(video.name, PASSED, "; ".join(found.flaws.notes))
            continue
        if expected.flaws.lost_frames:
            outcome.add(video.name, PASSED, "is damaged: decoders go on in ways of their own")
            continue
        compared += 1
        pictures = [on_host(classifier.clips(video).frames) for classifier in (cpu, gpu)]
        psnr = psnr_db(*pictures)
        error = float(np.abs(found.view_logits - expected.view_logits).max())
        error /= float(np.abs(expected.view_logits).max())
        labels = (expected.labels[0], found.labels[0])
        good = psnr >= LEAST_PSNR_DB and error <= LARGEST_LOGIT_ERROR and labels[0] == labels[1]
        said = (
            f"PSNR {psnr:.1f} dB, logits {error:.1e} apart, {' and '.join(dict.fromkeys(labels))}"
        )
        outcome.add(video.name, PASSED if good else FAILED, said)
    outcome.add("compared", PASSED if compared else FAILED, f"{compared} videos")


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """How near pictures (..., 3) of 0 to 255 are, in decibels; 99 where they are equal."""
    error = float(np.mean((one.astype(np.float32) - other) ** 2))
    return min(_SAME_DB, 10 * float(np.log10(255**2 / error))) if error else _SAME_DB


def _measure(outcome: Outcome, name: str, classifier: Classifier, videos: Sequence[Path]) -> None:
    list(classifier.classify_many(videos[:2]))  # kernels and decoders are made
    usage = Usage()
    with watched(usage):
        start = time.perf_counter()
        rows = list(classifier.classify_many(videos))
        taken = time.perf_counter() - start
    failed = [row for row in rows if row.prediction is None]
    clips = sum(len(row.prediction.view_logits) for row in rows if row.prediction is not None)
    rate = f"{len(rows) / taken:.1f} videos/s, {clips / taken:.1f} clips/s"
    outcome.add(name, FAILED if failed else PASSED, f"{rate}, {usage}")


def _options(reader: DecoderName) -> ClassifyOptions:
    return ClassifyOptions(views=3, batch=8, decoder=reader)


@contextlib.contextmanager
def _classifiers(where: Where, *readers: DecoderName) -> Iterator[dict[DecoderName, Classifier]]:
    with contextlib.ExitStack() as opened:
        yield {reader: opened.enter_context(_opened(where, _options(reader))) for reader in readers}


def _opened(where: Where, options: ClassifyOptions) -> Classifier:
    runtime = (
        RuntimeOptions(backend="torch", device="cpu", threads=1)
        if where.rehearsal
        else RuntimeOptions(backend="torch", device="cuda", precision="bf16")
    )
    artifact = fused_path(checkpoint("kinetics", where))
    return Classifier.open(artifact, options=options, runtime_options=runtime)
