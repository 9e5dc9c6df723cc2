"""A graph of another project made into one of ours: uint8 frames in, logits out, any batch."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from stdeploy.errors import ArtifactError, SpecError
from stdeploy.export.graph_cost import GraphCost, cost_of
from stdeploy.export.graph_shapes import Shapes, shapes_of
from stdeploy.importing.clip_description import ClipDescription
from stdeploy.importing.graph_editing import ORIGINAL, OURS, FoldedNorms, GraphEditor

_FRAMES, _LOGITS = "frames", "logits"
_SHAPE_ONLY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
_FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
_TRIED_BATCH = 5
_LEAST_PROBABILITY = 1e-37  # above the smallest normal float32, below which log is not exact

# Of one clip. Published networks stay below 2 x 10^12, 1 GiB and 100 MiB.
MOST_OPERATIONS = 4 * 10**12
MOST_BYTES = 4 * 2**30
MOST_CONSTANT_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class ImportedGraph:
    """What a graph became.

    Attributes:
        model: takes "frames" and gives "logits".
        cost: of one clip in the graph that it was made from.
        fixed_batch: the batch that this one was fixed at; None where it was free.
        norms: what became of its batch norms.
        softmax: the softmax that was taken off its end; "log" where its probabilities end in
            something else, of which a logarithm makes logits; "" where it gave logits.
        inputs: names of its inputs, one for each path of the description.
        output: name of its output.
        output_shape: of the original, at its batch or at one of 1.
    """

    model: onnx.ModelProto
    cost: GraphCost
    fixed_batch: int | None
    norms: FoldedNorms
    softmax: str
    inputs: tuple[str, ...]
    output: str
    output_shape: tuple[int, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done, in words."""
        done = []
        if self.norms.folded:
            done.append(f"{len(self.norms.folded)} batch norms folded in float64")
        if self.norms.rewritten:
            count = len(self.norms.rewritten)
            done.append(f"{count} batch norms without a convolution before them multiply and add")
        if self.fixed_batch is not None:
            done.append(f"the batch, fixed at {self.fixed_batch}, made free")
        if self.softmax == "log":
            done.append("logits are the logarithm of its probabilities")
        elif self.softmax:
            done.append(f"its last softmax ({self.softmax}) removed")
        return tuple(done)


def import_graph(
    original: onnx.ModelProto, description: ClipDescription, *, source: str
) -> ImportedGraph:
    """Put frames, normalisation and layout before a graph, and logits behind it.

    Args:
        original: from `read_graph`; it is not changed.
        description: of its owner.
        source: its file, for errors.

    Raises:
        SpecError: the description does not fit the graph.
        ArtifactError: the graph is not taken: too large, or its batch cannot be freed.
    """
    editor = GraphEditor(original, source=source, taken=(_FRAMES, _LOGITS))
    inputs = _inputs_in_order(editor, description)
    fixed = _set_sizes(inputs, description, source=source)
    output = _output_named(editor, description)
    sized = editor.model("sized", inputs, [onnx.ValueInfoProto(name=output, type=_FLOAT)])
    shapes = shapes_of(sized, source=source)
    cost = cost_of(sized, shapes)
    _check_affordable(cost, source=source)
    norms = editor.fold_norms(lambda name: len(shapes[name]))
    output, found = _output_named(editor, description), shapes[output]
    if fixed is not None:
        _free_batch(editor, [each.name for each in inputs], shapes, fixed)
    end, softmax = _without_softmax(editor, output, description, shapes)
    _put_logits_behind(editor, end, found, description, take_log=softmax == "log")
    _put_frames_before(editor, inputs, description)
    clip = description.clip.frames_shape
    ends = (
        helper.make_tensor_value_info(_FRAMES, TensorProto.UINT8, ["batch", *clip]),
        helper.make_tensor_value_info(
            _LOGITS, TensorProto.FLOAT, ["batch", len(description.labels)]
        ),
    )
    model = editor.model(description.said.name or "imported", ends[:1], ends[1:])
    _check_free(model, description, source=source, fixed=fixed)
    names = tuple(each.name.removesuffix(ORIGINAL) for each in inputs)
    return ImportedGraph(model, cost, fixed, norms, softmax, names, editor.called(output), found)


def _inputs_in_order(
    editor: GraphEditor, description: ClipDescription
) -> list[onnx.ValueInfoProto]:
    """The inputs of the graph, one for each path of the description."""
    by_name = {each.name.removesuffix(ORIGINAL): each for each in editor.inputs}
    wanted = [name for name, _ in description.paths]
    there = ", ".join(map(repr, by_name))
    if wanted == [None]:
        if len(by_name) != 1:
            raise SpecError(
                f"{editor.source!r} has {len(by_name)} inputs ({there[:200]}); describe each under "
                "[[input.paths]] with its name and the frames that it takes"
            )
        return list(by_name.values())
    if len(set(wanted)) != len(wanted) or set(wanted) != set(by_name):
        raise SpecError(
            f"{editor.source!r} has the inputs {there[:200]}; input.paths names "
            f"{', '.join(map(repr, wanted))}"
        )
    return [by_name[str(name)] for name in wanted]


def _set_sizes(
    inputs: Sequence[onnx.ValueInfoProto], description: ClipDescription, *, source: str
) -> int | None:
    """Give every input the size of its clip, and find the batch that the graph was fixed at."""
    layout, side = description.said.input.layout, description.clip.crop_px
    batches = set()
    for each, (_, chosen) in zip(inputs, description.paths, strict=True):
        kind = each.type.tensor_type
        if kind.elem_type != TensorProto.FLOAT:
            name = TensorProto.DataType.Name(kind.elem_type)
            raise ArtifactError(
                f"{source!r} takes {each.name!r} as {name}; float32 is taken, export it so: "
                "stdeploy export makes lower precisions of it and compares them"
            )
        sizes = {"N": 1, "V": 1, "C": 3, "T": len(chosen), "H": side, "W": side}
        there = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        wanted = [sizes[axis] for axis in layout]
        if len(there) != len(wanted) or any(
            axis != "N" and size not in (None, want)
            for axis, size, want in zip(layout, there, wanted, strict=True)
        ):
            shown = ", ".join("N" if size is None else str(size) for size in there)
            needed = ", ".join(["N", *map(str, wanted[1:])])
            raise SpecError(
                f"{source!r} takes {each.name!r} of shape ({shown}); layout {layout} with "
                f"{len(chosen)} frames of {side} px would be ({needed})"
            )
        batches.add(there[0])
        for dimension, size in zip(kind.shape.dim, wanted, strict=True):
            dimension.Clear()
            dimension.dim_value = size
    if len(batches) > 1 or 0 in batches:
        raise ArtifactError(f"{source!r} takes inputs of different batches: {batches}")
    (fixed,) = batches
    for each in inputs:
        each.type.tensor_type.shape.dim[0].dim_value = fixed or 1
    return fixed


def _check_affordable(cost: GraphCost, *, source: str) -> None:
    """Refuse what would take the memory or the time of the host.

    Raises:
        ArtifactError: it would.
    """
    for what, value, most in (
        ("bytes of memory", cost.peak_bytes, MOST_BYTES),
        ("bytes of constants that it computes", cost.constant_bytes, MOST_CONSTANT_BYTES),
        ("operations", cost.operations, MOST_OPERATIONS),
    ):
        if value > most:
            raise ArtifactError(
                f"{source!r} takes {value:.3g} {what} for one clip; at most {most:.3g} are allowed"
            )


def _output_named(editor: GraphEditor, description: ClipDescription) -> str:
    plain = {editor.called(name): name for name in editor.outputs}
    wanted = description.said.output.name
    if wanted is None and len(plain) == 1:
        return editor.outputs[0]
    if wanted in plain:
        return plain[wanted]
    asked = "output.name chooses one" if wanted is None else f"output.name is {wanted!r}"
    raise SpecError(
        f"{editor.source!r} has the outputs {', '.join(map(repr, plain))[:200]}; {asked}"
    )


def _free_batch(editor: GraphEditor, inputs: Sequence[str], shapes: Shapes, fixed: int) -> None:
    """Let nodes that hold a fixed batch take any.

    The target of a reshape gets -1 as its first size: the batch is the slowest part of the first
    axis of whatever depends on the clips, so all other sizes stay as they are. Where that does not
    hold the comparison fails. A constant that is joined to a clip, such as the token of a
    transformer, is repeated for each.
    """
    depends, nodes = set(inputs), list[onnx.NodeProto]()
    for node in editor.nodes:
        varying = [name for name in node.input if name in depends]
        if varying:
            depends.update(node.output)
        made = shapes.get(node.output[0], ())
        constant = node.op_type == "Reshape" and node.input[1] in editor.constants
        if varying and constant and made and made[0] % fixed == 0:
            target = np.array([-1, *made[1:]], dtype=np.int64)
            node.input[1] = editor.add_constant(f"{OURS}{node.name}.shape", target)
        if varying and node.op_type == "Concat" and fixed == 1 and len(made) > 1:
            nodes += _repeated_constants(editor, node, varying[0])
        nodes.append(node)
    editor.nodes = nodes


def _repeated_constants(
    editor: GraphEditor, concat: onnx.NodeProto, like: str
) -> Iterator[onnx.NodeProto]:
    """Nodes that repeat what is constant of a concatenation as often as another of its inputs."""
    if next((each.i for each in concat.attribute if each.name == "axis"), 0) == 0:
        return
    for place, name in enumerate(concat.input):
        dims = editor.constants[name].dims if name in editor.constants else ()
        if not dims or dims[0] != 1:
            continue
        base = f"{OURS}{concat.name}.{place}"
        first = editor.add_constant(f"{base}.first", np.array([0], dtype=np.int64))
        rest = editor.add_constant(f"{base}.rest", np.array(dims[1:], dtype=np.int64))
        for kind, inputs, what, axis in (
            ("Shape", [like], "like", None),
            ("Gather", [f"{base}.like", first], "batch", 0),
            ("Concat", [f"{base}.batch", rest], "target", 0),
            ("Expand", [name, f"{base}.target"], "repeated", None),
        ):
            made = f"{base}.{what}"
            yield helper.make_node(kind, inputs, [made], name=made, axis=axis)
        concat.input[place] = f"{base}.repeated"


def _without_softmax(
    editor: GraphEditor, output: str, description: ClipDescription, shapes: Shapes
) -> tuple[str, str]:
    """The tensor that logits are made of, and what was taken off behind it."""
    said, classes = description.said.output, len(description.labels)
    makers, path = editor.makers(), []
    node = makers.get(output)
    while node is not None and node.op_type in _SHAPE_ONLY:
        path.append(node)
        node = makers.get(node.input[0])
    kind = node.op_type if node is not None else ""
    if kind == "Sigmoid":
        raise SpecError(
            f"{editor.source!r} ends in a sigmoid, so several of its classes may hold at once; "
            "classes that exclude each other are taken"
        )
    if said.gives == "logits":
        if kind == "Softmax":
            raise SpecError(
                f"{editor.source!r} ends in a softmax, so it gives probabilities, and the "
                'description says gives = "logits"; write gives = "probabilities"'
            )
        return output, ""
    axis = next((each.i for each in node.attribute if each.name == "axis"), -1) if node else -1
    if node is None or kind != "Softmax" or said.per_frame:
        return output, "log"
    if shapes[node.output[0]][axis] != classes:
        return output, "log"
    if not path:
        return node.input[0], node.name
    path[-1].input[0] = node.input[0]
    return output, node.name


def _put_logits_behind(
    editor: GraphEditor,
    end: str,
    shape: tuple[int, ...],
    description: ClipDescription,
    *,
    take_log: bool,
) -> None:
    """Average over time where the output has rows for it, take the logarithm, end in (N, K)."""
    nodes, classes = list[onnx.NodeProto](), len(description.labels)

    def add(kind: str, constant: str = "", **attributes: Any) -> None:
        before = nodes[-1].output[0] if nodes else end
        made = f"{OURS}output_{len(nodes)}"
        inputs = [before, constant] if constant else [before]
        nodes.append(helper.make_node(kind, inputs, [made], name=made, **attributes))

    axis = time_axis(shape, description, source=editor.source)
    if axis is not None and editor.opset >= 18:
        axes = editor.add_constant(f"{OURS}time", np.array([axis], dtype=np.int64))
        add("ReduceMean", axes, keepdims=0)
    elif axis is not None:
        add("ReduceMean", axes=[axis], keepdims=0)
    if take_log:
        least = np.array(_LEAST_PROBABILITY, dtype=np.float32)
        add("Max", editor.add_constant(f"{OURS}least_probability", least))
        add("Log")
    if len(shape) - (axis is not None) != 2:
        target = np.array([-1, classes], dtype=np.int64)
        add("Reshape", editor.add_constant(f"{OURS}logits_shape", target))
    if nodes:
        nodes[-1].output[0] = _LOGITS
    else:
        editor.rename({end: _LOGITS})
    editor.nodes += nodes


def time_axis(shape: tuple[int, ...], description: ClipDescription, *, source: str) -> int | None:
    """The axis of an output (N, ...) that is averaged over, None where there is none.

    Args:
        shape: of the output.
        description: says how many classes there are, and whether there is a row for each frame.
        source: the file, for errors.

    Raises:
        SpecError: the output is not what was described.
    """
    classes, per_frame = len(description.labels), description.said.output.per_frame
    rest = [axis for axis in range(1, len(shape)) if shape[axis] != 1]
    of_classes = [axis for axis in rest if shape[axis] == classes]
    others = [axis for axis in rest if axis not in of_classes[-1:]]
    text = f"{source!r} gives ({', '.join(['N', *map(str, shape[1:])])})"
    if classes == 1 and not others:
        return None
    if not of_classes:
        raise SpecError(f"{text}, which has no axis for {classes} labels; name one label a class")
    if not others:
        if per_frame:
            raise SpecError(f"{text}: one row for a clip; leave per_frame out")
        return None
    if not per_frame:
        raise SpecError(
            f"{text}: more than one row for a clip; write per_frame = true where they are steps in "
            "time that are averaged"
        )
    if len(others) > 1 or len(of_classes) > 1:
        raise SpecError(f"{text}, of which the axis of time cannot be told")
    return others[0]


def _put_frames_before(
    editor: GraphEditor,
    inputs: Sequence[onnx.ValueInfoProto],
    description: ClipDescription,
) -> None:
    """Clips -> (frames * scale + offset), channels and frames chosen, each input's layout."""
    clip, pixels = description.clip, description.said.input
    std, mean = np.array(clip.std), np.array(clip.mean)
    scale = editor.add_constant(f"{OURS}scale", (1 / (255 * std)).astype(np.float32))
    offset = editor.add_constant(f"{OURS}offset", (-mean / std).astype(np.float32))
    nodes = list[onnx.NodeProto]()

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        made = f"{OURS}input_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [made], name=made, **attributes))
        return made

    scaled = add("Mul", add("Cast", _FRAMES, to=TensorProto.FLOAT), scale)
    whole = add("Transpose", add("Add", scaled, offset), perm=[0, 4, 1, 2, 3])
    if pixels.colour_order == "BGR":
        order = editor.add_constant(f"{OURS}bgr", np.array([2, 1, 0], dtype=np.int64))
        whole = add("Gather", whole, order, axis=1)
    names = {}
    permutation = ["NCTHW".index(axis) for axis in pixels.layout if axis != "V"]
    for number, (each, (_, chosen)) in enumerate(zip(inputs, description.paths, strict=True)):
        name = whole
        if chosen != tuple(range(clip.num_frames)):
            frames = np.array(chosen, dtype=np.int64)
            name = add("Gather", name, editor.add_constant(f"{OURS}path_{number}", frames), axis=2)
        if permutation != list(range(5)):
            name = add("Transpose", name, perm=permutation)
        if "V" in pixels.layout:
            shape = [d.dim_value for d in each.type.tensor_type.shape.dim]
            target = np.array([-1, *shape[1:]], dtype=np.int64)
            name = add("Reshape", name, editor.add_constant(f"{OURS}view_{number}", target))
        names[each.name] = name
    editor.rename(names)
    editor.nodes[:0] = nodes


def _check_free(
    model: onnx.ModelProto, description: ClipDescription, *, source: str, fixed: int | None
) -> None:
    """Check the whole graph, and by its shapes that it takes another batch.

    Raises:
        ArtifactError: it does not.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    wide.graph.input[0].type.tensor_type.shape.dim[0].dim_value = _TRIED_BATCH
    wanted = (_TRIED_BATCH, len(description.labels))
    try:
        onnx.checker.check_model(model)
        made = shapes_of(wide, source=source)[_LOGITS]
        if made != wanted:
            raise ArtifactError(f"{source!r}: {_TRIED_BATCH} clips give {made}, not {wanted}")
    except (ArtifactError, onnx.checker.ValidationError) as error:
        at = "" if fixed is None else f" (it was exported at a batch of {fixed})"
        reason = " ".join(str(error).split())[:300].removeprefix(f"{source!r}: ")
        raise ArtifactError(
            f"{source!r} cannot take another batch{at}: {reason}; export it with a dynamic batch"
        ) from error
