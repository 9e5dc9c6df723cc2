"""Files for streams: proven, opened and refused like any other, and fed frame by frame."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from stdeploy.analysis.kernels import read_kernels
from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.parity import relative_error
from stdeploy.artifacts.spec import StateSpec, StreamSpec
from stdeploy.backends.base import Backend, RuntimeOptions, StreamOptions
from stdeploy.backends.dense_trunk import DenseTrunk
from stdeploy.backends.loader import open_runtime, open_streams
from stdeploy.backends.streams import places_of
from stdeploy.cli.main import app
from stdeploy.errors import ArtifactError, ParityError, SpecError
from stdeploy.export.engine import build_engine
from stdeploy.export.float_input import export_float_input
from stdeploy.export.onnx import export_onnx
from stdeploy.export.onnx_verification import verify_onnx
from stdeploy.export.openvino_ir import export_openvino
from stdeploy.export.stream import export_stream
from stdeploy.export.stream_verification import whole_video
from stdeploy.inference.classifier import Classifier
from stdeploy.inference.dense_windows import DenseWindows
from stdeploy.inference.stream_windows import StreamWindows
from stdeploy.models.checkpoint import load_model, save_fused
from tests.export.files import fused_network
from tests.helpers.models import TINY_CLIP, card_of, write_signed
from tests.helpers.videos import write_golden_videos

RUNNER = CliRunner()
BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.fused.safetensors with a.stream.onnx and a.onnx; b, which strides in time, likewise."""
    folder = tmp_path_factory.mktemp("stream")
    plain = fused_network("plain", temporal_lengths=(1, 3, 1, 3, 3))
    save_fused(folder / "a.fused.safetensors", plain, card_of(plain))
    export_stream(folder / "a.fused.safetensors", window=16)
    export_onnx(folder / "a.fused.safetensors")
    strided = fused_network("i3d-inception", temporal_lengths=(3, 3, 1, 1, 3))
    clip = TINY_CLIP.model_copy(update={"num_frames": 16})
    save_fused(folder / "b.fused.safetensors", strided, card_of(strided, clip))
    export_stream(folder / "b.fused.safetensors", frames_per_call=8, window=32)
    return folder


def video(frames: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed)
    return noise.integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_fed_call_by_call_says_what_the_network_says_of_the_whole_video(
    folder: Path, backend: Backend, name: str
) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    model, card = load_model(folder / f"{name}.fused.safetensors")
    options = RuntimeOptions(backend=backend, device="cpu")
    videos = np.stack([video(48, seed) for seed in range(2)])
    expected = [whole_video(model, card.clip, each).places for each in videos]
    with open_streams(folder / f"{name}.stream.onnx", options=options) as runtime:
        assert runtime.session.name == backend
        together = places_of(videos, [runtime.begin(48) for _ in videos], runtime)
        alone = [places_of(each[None], [runtime.begin(48)], runtime)[0] for each in videos]
    for whole, row, single in zip(expected, together, alone, strict=True):
        assert relative_error(whole, row[: len(whole)].astype(np.float64)) < 1e-5
        assert relative_error(whole, single[: len(whole)].astype(np.float64)) < 1e-5


def test_torch_makes_the_same_of_fused_weights(folder: Path) -> None:
    with (
        open_streams(folder / "a.stream.onnx") as file,
        open_streams(folder / "a.fused.safetensors", asked=StreamOptions(1, 16)) as made,
    ):
        assert made.session.name == "torch"
        assert made.spec == file.spec
        streams = made.begin(), file.begin()
        for frame in video(30):
            first = made.step(frame[None, None], [streams[0]])
            second = file.step(frame[None, None], [streams[1]])
            np.testing.assert_allclose(first.logits, second.logits, rtol=1e-4, atol=1e-5)


def test_the_card_says_what_goes_in_and_out(folder: Path) -> None:
    card = read_card(folder / "b.stream.onnx")
    spec = card.stream
    assert card.form == "stream"
    assert spec is not None
    assert (spec.frames_per_call, spec.window_frames, spec.stride_frames) == (8, 32, 8)
    graph = onnx.load(folder / "b.stream.onnx").graph
    names = [f"state.{state.name}" for state in spec.states]
    assert [each.name for each in graph.input] == ["frames", "position", "length", *names]
    names = [f"next.{state.name}" for state in spec.states]
    assert [each.name for each in graph.output] == ["logits", "places", *names]
    said = RUNNER.invoke(app, ["card", str(folder / "b.stream.onnx")]).output
    assert "8 frames a call, answers about 32 frames" in said
    shapes = onnx.shape_inference.infer_shapes(onnx.load(folder / "b.stream.onnx")).graph
    ranks = {len(each.type.tensor_type.shape.dim) for each in (*shapes.value_info, *shapes.input)}
    assert max(ranks) == 4


def test_clips_and_files_are_classified_like_with_the_usual_file(
    folder: Path, tmp_path: Path
) -> None:
    (path, *_) = sorted(write_golden_videos(tmp_path / "v", count=1).rglob("*.mp4"))
    answers = []
    for name in ("a.onnx", "a.stream.onnx"):
        with Classifier.open(folder / name, backend="onnxruntime") as classifier:
            answers.append(classifier.classify(path).view_logits)
    np.testing.assert_allclose(*answers, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("frames", "hop"), [(40, 1), (41, 3), (8, 1), (5, 2), (1, 1)])
def test_windows_of_a_stream_are_those_of_dense_timelines(
    folder: Path, frames: int, hop: int
) -> None:
    """Also of videos shorter than a window, and whatever the chunks that frames come in."""
    card = read_card(folder / "a.onnx")
    clip, film = card.clip.num_frames, video(frames)
    with (
        open_runtime(folder / "a.onnx") as usual,
        open_streams(folder / "a.stream.onnx") as runtime,
    ):
        trunk = DenseTrunk.open(folder / "a.onnx", card, usual)
        dense = DenseWindows(trunk, window=clip, hop=hop, stretch=16)
        stream = StreamWindows(runtime, window=clip, hop=hop)
        found = []
        for windows in (dense, stream):
            logits = [row for n in range(0, frames, 7) for row in windows.add(film[n : n + 7])]
            found.append(np.concatenate([*logits, *windows.finish()]))
    assert len(found[0]) == max(1, (frames - clip) // hop + 1)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("frames", "hop"), [(48, 8), (51, 8), (16, 8), (10, 8), (3, 16)])
def test_windows_of_a_network_that_strides_in_time(folder: Path, frames: int, hop: int) -> None:
    model, card = load_model(folder / "b.fused.safetensors")
    film, window = video(frames), card.clip.num_frames
    whole = film[: max(frames // 8 * 8, 8)]
    if len(whole) < 8:
        whole = np.concatenate([whole, np.repeat(whole[-1:], 8 - len(whole), axis=0)])
    places = whole_video(model, card.clip, whole).places
    expected = [
        places[start // 8 : (start + window) // 8].mean(axis=0)
        for start in range(0, max(len(whole) - window, 0) + 1, hop)
    ]
    with open_streams(folder / "b.stream.onnx") as runtime:
        windows = StreamWindows(runtime, window=window, hop=hop)
        found = [row for n in range(0, frames, 5) for row in windows.add(film[n : n + 5])]
        found += list(windows.finish())
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-4, atol=1e-5)


def test_a_timeline_of_a_file_for_streams_shares_work_by_itself(
    folder: Path, tmp_path: Path
) -> None:
    (path, *_) = sorted(write_golden_videos(tmp_path / "v", count=1).rglob("*.mp4"))
    lines = []
    for name in ("a.onnx", "a.stream.onnx"):
        with Classifier.open(folder / name, backend="onnxruntime") as classifier:
            trunk = None
            if name == "a.onnx":
                trunk = DenseTrunk.open(folder / name, classifier.card, classifier.runtime)
            lines.append(classifier.timeline(path, hop_seconds=0.5, trunk=trunk, top_k=5))
    assert [line.how for line in lines] == ["dense", "dense"]
    assert len(lines[0].cells) == len(lines[1].cells)
    for one, other in zip(lines[0].cells, lines[1].cells, strict=True):
        assert (one.start, one.end, one.best) == (other.start, other.end, other.best)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_a_file_in_half_precision_passes_its_gate(folder: Path, tmp_path: Path) -> None:
    result = export_stream(
        folder / "a.fused.safetensors",
        tmp_path / "h.onnx",
        precision="fp16",
        window=16,
        allow={"top1_changed": 1.0},
    )
    assert result.card.stream is not None
    assert {state.type for state in result.card.stream.states[:-1]} == {"float16"}
    assert result.card.stream.states[-1].type == "float32"  # of the head


def test_changed_weights_are_found_when_a_file_is_opened(folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(folder / "a.stream.onnx")
    (kernel,) = [t for t in proto.graph.initializer if t.name.endswith("conv5.2.conv.weight")]
    changed = numpy_helper.to_array(kernel).copy()
    changed[0] = 0.0
    kernel.CopyFrom(numpy_helper.from_array(changed, kernel.name))
    write_signed(proto, tmp_path / "c.stream.onnx")
    with pytest.raises(ParityError):
        open_runtime(tmp_path / "c.stream.onnx")


def test_a_card_that_announces_other_states_is_refused(folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(folder / "a.stream.onnx")
    proto.graph.input[3].type.tensor_type.shape.dim[1].dim_value += 1
    write_signed(proto, tmp_path / "c.stream.onnx")
    with pytest.raises(ArtifactError, match=r"cannot be loaded|that its card announces"):
        open_runtime(tmp_path / "c.stream.onnx", options=RuntimeOptions(backend="onnxruntime"))


def test_what_takes_whole_clips_refuses_a_file_for_streams(folder: Path, tmp_path: Path) -> None:
    path = folder / "a.stream.onnx"
    said = "takes a file of whole clips, and this one, made from 'a.fused.safetensors', takes"
    with pytest.raises(SpecError, match=said):
        export_float_input(path, tmp_path / "f.onnx")
    with pytest.raises(SpecError, match=said):
        verify_onnx(path, folder / "a.fused.safetensors")
    with pytest.raises(SpecError, match=said):
        build_engine(path, targets=["sm86"])
    if importlib.util.find_spec("openvino"):
        with pytest.raises(SpecError, match=said):
            export_openvino(path, tmp_path / "f.xml")
    with pytest.raises(ArtifactError, match="is in stream form, whose filters lie stacked"):
        read_kernels(path)
    result = RUNNER.invoke(app, ["export", str(path), "--triton", str(tmp_path / "models")])
    assert "a model on Triton takes a file of whole clips" in str(result.exception)


def test_what_cannot_be_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    fused = folder / "a.fused.safetensors"
    for arguments, said in (
        (["--stream", "--precision", "int8"], "precision of a stream"),
        (["--stream", "--form", "planar"], "leave --form out"),
        (["--stream", "--trt"], "leave --trt out"),
        (["--window", "8"], "add --stream"),
        (["--stream", "--window", "0"], "greater than or equal to 1"),
    ):
        result = RUNNER.invoke(app, ["export", str(fused), *arguments])
        assert result.exit_code != 0
        assert said in " ".join(f"{result.output} {result.exception}".split())
    with pytest.raises(SpecError, match="frames_per_call = 2: this file was written for 1"):
        open_streams(folder / "a.stream.onnx", asked=StreamOptions(frames_per_call=2))
    with pytest.raises(SpecError, match="takes whole clips, in conv3d form"):
        open_streams(folder / "a.onnx")
    with pytest.raises(SpecError, match="torch has no --planar of streams"):
        open_streams(fused, options=RuntimeOptions(backend="torch", planar=True, device="cpu"))
    assert not list(tmp_path.iterdir())


def test_hostile_descriptions_of_streams_allocate_nothing() -> None:
    with pytest.raises(SpecError, match="numbers; 268435456 are allowed"):
        StateSpec.parse({"name": "a", "shape": [1 << 20, 1 << 20, 1]})
    state = {"name": "a", "shape": [1]}
    fields = {"frames_per_call": 3, "window_frames": 8, "stride_frames": 2, "delay_places": 0}
    with pytest.raises(SpecError, match="frames_per_call 3 is no multiple of stride_frames 2"):
        StreamSpec.parse(fields | {"states": [state]})
