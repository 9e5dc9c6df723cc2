"""An .onnx file that takes float32 (N, 3, T, H, W), for programs that hand over nothing else."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.files import (
    FLOAT_INPUT,
    ONNX_SUFFIX,
    StrPath,
    as_path,
    checked_output,
    existing,
    whole_file,
)
from stdeploy.artifacts.spec import InputFormat
from stdeploy.backends.loader import open_runtime
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.datasets.loader import NamedVideos
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.export.calibration import real_clips
from stdeploy.export.onnx import ExportResult, save_graph
from stdeploy.export.verification import (
    check,
    check_verifiable,
    prove_file,
    prover,
    reference_of_file,
    thresholds,
)

_FORMAT: InputFormat = "float-ncthw"
_NORMALISATION = ["Cast", "Mul", "Add", "Transpose"]


def export_float_input(
    onnx_file: StrPath,
    output: StrPath | None = None,
    *,
    calibrate: StrPath | NamedVideos | None = None,
    max_clips: int = 32,
    allow: Mapping[str, float] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> ExportResult:
    """Write a verified .onnx file once more, with pixels as float32 (N, 3, T, H, W), 0 to 255, RGB.

    Mean and std stay in the graph, so that no program can take others. All other numbers are those
    of the file that it is made from, with whose answers its own are compared.

    Args:
        onnx_file: of any precision, with the usual input; also one that `import_onnx` wrote.
        output: where to write; None puts ckpt.float-ncthw.onnx beside ckpt.onnx.
        calibrate: real videos to compare on, beside synthetic clips; see `export_onnx`.
        max_clips: most clips of them.
        allow: thresholds of the gate to use instead of those in parity.py, by name.
        progress: is told what is done, how much of it and of how much.
        tell: is told which videos are of no use.

    Raises:
        ArtifactError: the file cannot be used, or begins otherwise than ours do.
        SpecError: it takes float32 already, or no such threshold.
        ParityError: the new file answers differently; nothing is written.
        BackendError: this processor cannot verify the precision.
        MissingExtraError: ONNX Runtime or, for bf16, OpenVINO is not installed.
    """
    onnx_file = existing(as_path(onnx_file, "an .onnx file"))
    if onnx_file.suffix != ONNX_SUFFIX:
        raise ArtifactError(f"{str(onnx_file)!r}: an .onnx file is wanted")
    card = read_card(onnx_file)
    if card.input == _FORMAT:
        raise SpecError(f"{str(onnx_file)!r} takes {_FORMAT} already")
    card.check_whole_clips("float input")
    check_verifiable(card.precision)
    allowed = thresholds(card.precision, allow or {})
    path = checked_output(
        onnx_file.with_name(onnx_file.name.removesuffix(ONNX_SUFFIX) + FLOAT_INPUT + ONNX_SUFFIX)
        if output is None
        else as_path(output, "an output"),
        ONNX_SUFFIX,
        source=onnx_file,
    )
    clips = real_clips(calibrate, card.clip, max_clips=max_clips, tell=tell)
    model = with_float_input(onnx.load(onnx_file), card, source=onnx_file.name)
    reference = reference_of_file(onnx_file, card, clips, progress)
    made_with = {**card.lineage.versions, "onnx": onnx.__version__}
    made_with.pop("stdeploy", None)  # what writes this file counts
    card = card.model_copy(
        update={"input": _FORMAT, "lineage": card.lineage.of_child(onnx_file, **made_with)}
    )
    with whole_file(path) as temporary:
        save_graph(model, card, temporary)
        options = prover(card.precision)
        proof = prove_file(temporary, card, reference, allowed, options, progress)
        check(proof, source=f"{onnx_file.name!r} with {_FORMAT}")
        card = card.model_copy(update={"parity": proof.rows})
        save_graph(model, card, temporary)
        open_runtime(temporary, options=options).close()
    return ExportResult(path, card)


def with_float_input(model: onnx.ModelProto, card: ModelCard, *, source: str) -> onnx.ModelProto:
    """A graph that normalises pixels in their place: frames * scale + offset, per channel.

    Args:
        model: begins with Cast, Mul, Add and Transpose from (N, T, H, W, 3) to (N, 3, T, H, W), as
            those that `stdeploy.export.onnx` and `stdeploy.importing` make; it is changed.
        card: of the file; for the shape.
        source: the file, for errors.

    Raises:
        ArtifactError: it begins otherwise.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found, name = list[onnx.NodeProto](), graph.input[0].name
    for kind in _NORMALISATION:
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type != kind:
            raise ArtifactError(
                f"{source!r} does not begin with {', '.join(_NORMALISATION)}, as files of stdeploy "
                "do; export it again"
            )
        found.append(readers[0])
        name = readers[0].output[0]
    _, scale, offset, transpose = found
    # What the axes of (N, T, H, W, 3) are in (N, 3, T, H, W).
    permutation = [(0, 2, 3, 4, 1)[axis] for axis in transpose.attribute[0].ints]
    in_place = permutation == sorted(permutation)
    normalised = transpose.output[0] if in_place else "frames_normalised"
    nodes, before = list[onnx.NodeProto](), "frames"
    for node, made in ((scale, "frames_scaled"), (offset, normalised)):
        (constant,) = (each for each in node.input if each in constants)
        numbers = numpy_helper.to_array(constants[constant]).astype(np.float32)
        per_channel = f"{constant}.per_channel"
        tensor = numpy_helper.from_array(numbers.reshape(3, 1, 1, 1), per_channel)
        graph.initializer.append(tensor)
        nodes.append(helper.make_node(node.op_type, [before, per_channel], [made], name=made))
        before = made
    if not in_place:
        nodes.append(
            helper.make_node(
                "Transpose", [before], transpose.output, name="frames_turned", perm=permutation
            )
        )
    rest = [node for node in graph.node if node not in found]
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *rest])
    frames, height, width, channels = card.clip.frames_shape
    shape: list[str | int | None] = ["batch", channels, frames, height, width]
    graph.input.append(helper.make_tensor_value_info("frames", TensorProto.FLOAT, shape))
    used = {name for node in graph.node for name in node.input}
    for tensor in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(tensor)
    onnx.checker.check_model(model, full_check=True)
    return model
