"""OpenVINO's own files (IR) of a verified .onnx file, for programs that read no ONNX."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from stdeploy.artifacts.card import ParityRow, read_card
from stdeploy.artifacts.digest import CARD_KEY
from stdeploy.artifacts.files import (
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
    StrPath,
    as_path,
    checked_output,
    existing,
    naming,
    unfinished_folder,
)
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.openvino import OpenVinoRuntime
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.datasets.loader import NamedVideos
from stdeploy.errors import ArtifactError, BackendError
from stdeploy.export.calibration import real_clips
from stdeploy.export.verification import (
    check,
    check_verifiable,
    prove,
    reference_of_file,
    thresholds,
)
from stdeploy.optional_packages import require

_WEIGHTS_SUFFIX = ".bin"


@dataclasses.dataclass(frozen=True)
class OpenVinoFiles:
    """What was written.

    Attributes:
        path: the .xml file; "rt_info" in it has the card under "stdeploy.card".
        weights: the .bin file beside it, which belongs to it.
        parity: every comparison with the .onnx file, all of them passed.
    """

    path: Path
    weights: Path
    parity: tuple[ParityRow, ...]


def export_openvino(
    onnx_file: StrPath,
    output: StrPath | None = None,
    *,
    calibrate: StrPath | NamedVideos | None = None,
    max_clips: int = 32,
    allow: Mapping[str, float] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> OpenVinoFiles:
    """Write a verified .onnx file as OpenVINO IR, with its weights as they are.

    OpenVINO runs float32 weights in bf16 by itself where the processor has it: programs that want
    these answers set INFERENCE_PRECISION_HINT to f32, as here.

    Args:
        onnx_file: fp32, bf16 or int8, with either input.
        output: the .xml file; None puts ckpt.xml, and ckpt.bin, beside ckpt.onnx.
        calibrate: real videos to compare on, beside synthetic clips; see `export_onnx`.
        max_clips: most clips of them.
        allow: thresholds of the gate to use instead of those in parity.py, by name.
        progress: is told what is done, how much of it and of how much.
        tell: is told which videos are of no use.

    Raises:
        ArtifactError: the file cannot be used, or OpenVINO cannot read it.
        BackendError: OpenVINO does not run its precision here.
        ParityError: the new files answer differently; nothing is written.
        SpecError: no such threshold.
        MissingExtraError: OpenVINO or ONNX Runtime is not installed.
    """
    onnx_file = existing(as_path(onnx_file, "an .onnx file"))
    if onnx_file.suffix != ONNX_SUFFIX:
        raise ArtifactError(f"{str(onnx_file)!r}: an .onnx file is wanted")
    openvino = require("openvino", extra="openvino", purpose="writing files of OpenVINO")
    card = read_card(onnx_file)
    card.check_whole_clips("OpenVINO IR")
    if card.precision not in OpenVinoRuntime.precisions:
        raise BackendError(
            f"{onnx_file.name!r} is in {card.precision}, which OpenVINO does not run on a CPU; "
            f"give a file in {', '.join(OpenVinoRuntime.precisions)}"
        )
    check_verifiable(card.precision)
    allowed = thresholds(card.precision, allow or {})
    path = checked_output(
        onnx_file.with_suffix(OPENVINO_SUFFIX) if output is None else as_path(output, "an output"),
        OPENVINO_SUFFIX,
    )
    clips = real_clips(calibrate, card.clip, max_clips=max_clips, tell=tell)
    reference = reference_of_file(onnx_file, card, clips, progress)
    with unfinished_folder(path.parent) as folder, naming(path):
        written = folder / path.name
        model = openvino.Core().read_model(onnx_file)
        model.set_rt_info(card.to_json(), CARD_KEY.split("."))
        # Otherwise it would round float32 to float16.
        openvino.save_model(model, str(written), compress_to_fp16=False)
        with OpenVinoRuntime.open(written, card, _options()) as runtime:
            proof = prove(runtime, reference, allowed, progress=progress)
        check(proof, source=f"{path.name!r}")
        weights = path.with_suffix(_WEIGHTS_SUFFIX)
        written.with_suffix(_WEIGHTS_SUFFIX).replace(weights)
        written.replace(path)
    return OpenVinoFiles(path, weights, proof.rows)


def _options() -> RuntimeOptions:
    return RuntimeOptions(backend="openvino", device="cpu", emulate=True)
