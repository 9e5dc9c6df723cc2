"""A graph of another project made into one of ours: uint8 frames in, logits out, any batch."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from stdeploy.errors import ArtifactError, SpecError
from stdeploy.export.graph_cost import GraphCost, cost_of
from stdeploy.export.graph_shapes import shapes_of
from stdeploy.importing.clip_description import ClipDescription
from stdeploy.importing.free_batch import free_batch
from stdeploy.importing.graph_editing import (
    ORIGINAL,
    OURS,
    FoldedNorms,
    GraphEditor,
    sizes_of,
)
from stdeploy.importing.graph_output import LOGITS, put_logits_behind

_FRAMES = "frames"
_FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
_TRIED_BATCH = 5

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
        fixed_batch: the batch that this one was fixed at, in its inputs or in what it does with
            them; None where it was free.
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

    A graph whose inputs take any batch may hold one all the same, as x.view(1, -1) does: then it is
    taken for one that was exported at a batch of 1.

    Args:
        original: from `read_graph`; it is not changed.
        description: of its owner.
        source: its file, for errors.

    Raises:
        SpecError: the description does not fit the graph.
        ArtifactError: the graph is not taken: too large, or its batch cannot be freed.
    """
    try:
        return _imported(original, description, source=source)
    except _BatchError as first:
        if first.fixed is not None:
            raise
        try:
            return _imported(original, description, source=source, assumed=1)
        except _BatchError:
            raise first from None


class _BatchError(ArtifactError):
    """A graph that does not take another batch, and the one that it was exported at."""

    def __init__(self, message: str, fixed: int | None) -> None:
        super().__init__(message)
        self.fixed = fixed


def _imported(
    original: onnx.ModelProto,
    description: ClipDescription,
    *,
    source: str,
    assumed: int | None = None,
) -> ImportedGraph:
    """Change a graph; `assumed` is the batch that it was exported at where its inputs take any."""
    editor = GraphEditor(original, source=source, taken=(_FRAMES, LOGITS))
    inputs = _inputs_in_order(editor, description)
    fixed = _set_sizes(inputs, description, source=source) or assumed
    output = _output_named(editor, description)
    editor.keep(output)
    sized = editor.model("sized", inputs, [onnx.ValueInfoProto(name=output, type=_FLOAT)])
    shapes = shapes_of(sized, source=source)
    cost = cost_of(sized, shapes)
    _check_affordable(cost, source=source)
    norms = editor.fold_norms(lambda name: len(shapes[name]))
    (output,), found = editor.outputs, shapes[output]
    if fixed is not None:
        free_batch(editor, [each.name for each in inputs], shapes, fixed)
    softmax = put_logits_behind(editor, output, description, {**shapes, output: found})
    _put_frames_before(editor, inputs, description)
    clip = description.clip.frames_shape
    ends = (
        helper.make_tensor_value_info(_FRAMES, TensorProto.UINT8, ["batch", *clip]),
        helper.make_tensor_value_info(
            LOGITS, TensorProto.FLOAT, ["batch", len(description.labels)]
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
        there = sizes_of(each)
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
    if len(batches) > 1:
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
        made = shapes_of(wide, source=source)[LOGITS]
        if made != wanted:
            raise ArtifactError(f"{source!r}: {_TRIED_BATCH} clips give {made}, not {wanted}")
    except (ArtifactError, onnx.checker.ValidationError) as error:
        at = "" if fixed is None else f" (it was exported at a batch of {fixed})"
        reason = " ".join(str(error).split())[:300].removeprefix(f"{source!r}: ")
        raise _BatchError(
            f"{source!r} cannot take another batch{at}: {reason}; export it with a dynamic batch",
            fixed,
        ) from error
