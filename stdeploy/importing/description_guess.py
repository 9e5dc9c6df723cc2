"""A description to begin with: what a graph shows of itself, and what its makers usually do."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from stdeploy.errors import ArtifactError, SpecError
from stdeploy.export.graph_shapes import shapes_of
from stdeploy.importing.graph_editing import GraphEditor, sizes_of
from stdeploy.importing.graph_output import last_activation
from stdeploy.importing.hostile_graphs import read_graph

_UNKNOWN_FRAMES, _UNKNOWN_SIDE, _UNKNOWN_CLASSES = 16, 224, 2
_FEWEST_PARTS = 2  # of a known project, among the names of a graph's weights


@dataclasses.dataclass(frozen=True)
class _Project:
    """What the networks of a project are trained with, unless their settings say otherwise."""

    name: str
    parts: tuple[str, ...]  # that names of weights have
    range: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PROJECTS = (
    _Project(
        *("mmaction2", ("backbone.", "cls_head."), "0..255"),
        *((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ),
    _Project("PyTorchVideo", (".res_blocks.", ".branch2."), "0..1", (0.45,) * 3, (0.225,) * 3),
    _Project("PySlowFast", ("s1.pathway0", "s2.pathway0"), "0..1", (0.45,) * 3, (0.225,) * 3),
    _Project(
        *("torchvision", ("stem.", "layer1.0.conv1.0"), "0..1"),
        *((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    ),
)
_NOBODY = _Project("", (), "0..1", *_IMAGENET)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A description that can be imported with, once somebody has looked at it.

    Attributes:
        toml: the text of the file; each line that is a guess says so behind it.
        guessed: names of the fields that were guessed.
    """

    toml: str
    guessed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Line:
    table: str
    name: str
    value: str
    known: str  # where it comes from, "" for a guess
    guess: str = ""


def propose_description(path: Path) -> Proposal:
    """Propose a description of an .onnx file by looking at its graph.

    Shapes, the number of classes and a last softmax are read off the graph. Frame rate, stride,
    mean, std and colours do not stand in it: they are those of the project whose names its weights
    have, or of ImageNet, and are marked as guesses.

    Args:
        path: an .onnx file of anyone.

    Raises:
        ArtifactError: no such file, or one that is not taken.
        SpecError: its inputs are no clips.
    """
    model = read_graph(path)
    editor = GraphEditor(model, source=path.name, taken=())
    inputs = [_Input.of(each, path) for each in editor.inputs]
    if not inputs:
        raise SpecError(f"{str(path)!r} has no input")
    lines = list(_lines(path, editor, inputs))
    text, table = [f"# {path.name}, as its graph shows it; look at every guess"], ""
    for line in lines:
        if line.table != table:
            table = line.table
            text += ["", f"[{table}]"]
        remark = line.known or f"a guess: {line.guess}"
        text.append(f"{line.name} = {line.value}  # {remark}")
    guessed = tuple(
        f"{line.table}.{line.name}".removeprefix(".") for line in lines if not line.known
    )
    return Proposal("\n".join(text) + "\n", guessed)


@dataclasses.dataclass(frozen=True)
class _Input:
    """An input of the graph; `is_certain` where but one of its axes can be that of colours."""

    name: str
    layout: str
    sizes: dict[str, int | None]
    value: onnx.ValueInfoProto
    is_certain: bool

    @classmethod
    def of(cls, value: onnx.ValueInfoProto, path: Path) -> "_Input":
        sizes = sizes_of(value)
        shown = ", ".join("?" if size is None else str(size) for size in sizes)
        taken = f"{str(path)!r} takes {value.name!r} of shape ({shown})"
        if value.type.tensor_type.elem_type != TensorProto.FLOAT or len(sizes) not in (5, 6):
            raise SpecError(
                f"{taken}; float32 clips of 5 axes, or of 6 with one of a single view, are taken"
            )
        axes = list(range(1, len(sizes)))
        view = axes.pop(0) if len(sizes) == 6 else None
        if view is not None and sizes[view] not in (None, 1):
            raise SpecError(f"{taken}; of the axis of views, one is taken")
        colours = [axis for axis in axes if sizes[axis] == 3]
        if not colours:
            raise SpecError(f"{taken}; no axis has the 3 colours")
        rest = [axis for axis in axes if axis != colours[0]]
        names = {0: "N", colours[0]: "C", **dict(zip(rest, "THW", strict=True))}
        if view is not None:
            names[view] = "V"
        layout = "".join(names[axis] for axis in range(len(sizes)))
        by_axis = dict(zip(layout, sizes, strict=True))
        if by_axis["H"] and by_axis["W"] and by_axis["H"] != by_axis["W"]:
            raise SpecError(f"{taken}; frames are taken where they are square")
        return cls(value.name, layout, by_axis, value, len(colours) == 1)


def _lines(path: Path, editor: GraphEditor, inputs: list[_Input]) -> Iterator[_Line]:
    graph = "from the graph"
    project = _project(editor)
    usual = f"what {project.name} trains with" if project.name else "ImageNet's"
    frames = [each.sizes["T"] for each in inputs]
    most = max((size for size in frames if size is not None), default=None)
    side = next((each.sizes["H"] for each in inputs if each.sizes["H"]), None)
    shape, softmax = _output(editor, inputs, most or _UNKNOWN_FRAMES, side or _UNKNOWN_SIDE)
    classes = max(shape[1:], default=_UNKNOWN_CLASSES)
    labels = ", ".join(f'"class {number}"' for number in range(classes))
    yield _Line("", "name", _text(path.stem), "its file")
    if project.name:
        yield _Line("", "origin", _text(project.name), "", "the names of its weights")
    yield _Line("", "labels", f"[{labels}]", "", "or the name of a file, one label a line")
    any_size = "the graph takes any"
    yield _Line(
        "clip", "num_frames", str(most or _UNKNOWN_FRAMES), (most and graph) or "", any_size
    )
    yield _Line("clip", "frame_stride", "2", "", "does not stand in a graph")
    yield _Line("clip", "fps", "30", "", "of the videos that it was trained on")
    size = side or _UNKNOWN_SIDE
    yield _Line("clip", "short_side_px", str(round(size * 8 / 7)), "", "8/7 of the crop")
    yield _Line("clip", "crop_px", str(size), (side and graph) or "", any_size)
    certain = graph if all(each.is_certain for each in inputs) else ""
    several = "several of its axes may be the colours"
    yield _Line("input", "layout", _text(inputs[0].layout), certain, several)
    yield _Line("input", "range", _text(project.range), "", usual)
    yield _Line("input", "mean", str(list(project.mean)), "", usual)
    yield _Line("input", "std", str(list(project.std)), "", usual)
    yield _Line("input", "colour_order", _text("RGB"), "", "BGR where OpenCV read the frames")
    if len(inputs) > 1:
        steps = [(most or 1) // (each.sizes["T"] or most or 1) for each in inputs]
        paths = ", ".join(
            f"{{name = {_text(each.name)}, every = {step}}}"
            for each, step in zip(inputs, steps, strict=True)
        )
        yield _Line("input", "paths", f"[{paths}]", "", "frames at even steps")
    gives = "probabilities" if softmax else "logits"
    yield _Line("output", "gives", _text(gives), "its last softmax" if softmax else "no softmax")
    if len([number for number in shape[1:] if number != 1]) > 1:
        yield _Line("output", "per_frame", "true", graph)
    if len(editor.outputs) > 1:
        name = editor.called(editor.outputs[0])
        yield _Line("output", "name", _text(name), "", "the first of its outputs")


def _project(editor: GraphEditor) -> _Project:
    names = [*editor.constants, *(node.name for node in editor.nodes)]
    for project in _PROJECTS:
        found = sum(any(part in name for name in names) for part in project.parts)
        if found >= _FEWEST_PARTS:
            return project
    return _NOBODY


def _output(
    editor: GraphEditor, inputs: list[_Input], frames: int, side: int
) -> tuple[tuple[int, ...], bool]:
    """Shape of the first output at a batch of one, () where it cannot be told; a softmax or not."""
    unknown = {"N": 1, "V": 1, "C": 3, "T": frames, "H": side, "W": side}
    for each in inputs:
        for axis, dimension in zip(each.layout, each.value.type.tensor_type.shape.dim, strict=True):
            size = each.sizes[axis] or unknown[axis]
            dimension.Clear()
            dimension.dim_value = size
    name = editor.outputs[0]
    kind = onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    ends = [onnx.ValueInfoProto(name=name, type=kind)]
    sized = editor.model("sized", [each.value for each in inputs], ends)
    try:
        shape = shapes_of(sized, source="it")[name]
    except ArtifactError:
        shape = ()
    return shape, last_activation(editor, name) == "Softmax"


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
