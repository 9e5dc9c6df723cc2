"""The trunk of an .onnx artifact by itself, for any number of frames."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import ONNX_SUFFIX
from stdeploy.artifacts.golden import check_golden, golden_clip
from stdeploy.artifacts.parity import RUNTIME_TOLERANCE
from stdeploy.backends.base import Features, RunsClips, runtime_class
from stdeploy.errors import ArtifactError, SpecError

_TIME = {2, -3}  # of features (N, C, T, H, W)
_MOST_FRAMES = 1 << 24  # an end beyond it is that of the axis


class DenseTrunk:
    """See `stdeploy.inference.dense_windows.Trunk`.

    Args:
        run: frames (1, T, H, W, 3) to features (1, C, T).
        weight: of the classifier, (K, C).
        bias: (K,).
        before: frames before its own that a feature depends on.
        after: and behind it.
    """

    def __init__(
        self,
        run: Features,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        *,
        before: int,
        after: int,
    ) -> None:
        self.before = before
        self.after = after
        self._run = run
        self._weight = weight.astype(np.float64)
        self._bias = bias.astype(np.float64)

    @classmethod
    def open(cls, artifact: Path, card: ModelCard, runtime: RunsClips) -> Self:
        """Cut the head off an artifact and make the rest answer the golden clip.

        Args:
            artifact: an .onnx file.
            card: its card.
            runtime: that runs it; the trunk runs in the same backend, on the same device.

        Raises:
            SpecError: the network strides in time, the file is no .onnx file, or the backend
                opens whole artifacts only.
            ArtifactError: the file holds another graph than ours.
            ParityError: the trunk answers differently.
        """
        if not artifact.name.endswith(ONNX_SUFFIX):
            raise SpecError(
                f"a dense timeline needs an .onnx file, which {artifact.name!r} is not; name one, "
                "or pass --timeline windows"
            )
        if card.input != "uint8-nthwc":
            raise SpecError(
                f"a dense timeline needs uint8 frames, and {artifact.name!r} takes {card.input}; "
                f"name {card.lineage.parent!r}, or pass --timeline windows"
            )
        if card.form != "conv3d":
            raise SpecError(
                f"a dense timeline needs 3D convolutions, and {artifact.name!r} is in {card.form} "
                "form; name the usual .onnx file, or pass --timeline windows"
            )
        model = onnx.load(artifact)
        before, after = _temporal_reach(model.graph, artifact)
        weight, bias = _cut(model.graph, artifact)
        run = runtime_class(runtime.name).open_trunk(model.SerializeToString(), runtime)
        trunk = cls(run, weight, bias, before=before, after=after)
        # A golden clip by itself has no neighbours: there it has to be what the network says.
        golden = card.golden
        clip = golden_clip(golden.seed, card.clip.frames_shape)
        average = trunk.features(clip).astype(np.float64).mean(axis=0, keepdims=True)
        check_golden(
            golden.logits if golden.verified is None else golden.verified,
            trunk.logits(average)[0],
            magnitude=golden.magnitude,
            tolerance=RUNTIME_TOLERANCE[runtime.precision],
            source=f"the trunk of {artifact.name!r} on {runtime.name} ({runtime.device})",
        )
        return trunk

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map frames (T, H, W, 3) to features (T, C)."""
        return np.ascontiguousarray(self._run(frames[None])[0].T)

    def logits(self, averages: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map averaged features (N, C) to logits (N, K)."""
        return np.asarray(averages @ self._weight.T + self._bias)


def _temporal_reach(graph: onnx.GraphProto, artifact: Path) -> tuple[int, int]:
    """How many frames before and behind its own one feature depends on, along the longest way.

    Raises:
        SpecError: something strides in time, or looks at all frames at once.
    """
    # Of each tensor the first and the last frame that its frame 0 depends on.
    reach = {graph.input[0].name: (0, 0)}  # not of weights, which are no frames
    first_frames: dict[str, str] = {}  # with what they are of
    # What the classifier takes is the one average over time that belongs there; see `_cut`.
    pooled = next((node.input[0] for node in graph.node if "logits" in node.output), "")
    for node in graph.node:
        seen = [reach[name] for name in node.input if name in reach]
        if not seen:
            continue
        first, last = min(each[0] for each in seen), max(each[1] for each in seen)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        joins_frames = node.op_type == "Concat" and attributes["axis"] in _TIME
        if node.op_type == "Slice" and _takes_first_frame(node, graph, artifact):
            first_frames[node.output[0]] = node.input[0]
        elif joins_frames and {first_frames.get(name) for name in node.input[:-1]} == {
            node.input[-1]
        }:
            frames = len(node.input) - 1
            first, last = first - frames, last - frames
        elif joins_frames or not first_frames.keys().isdisjoint(node.input):
            raise _rearranges(artifact)
        kernel = attributes.get("kernel_shape", ())
        if len(kernel) == 3:
            if attributes.get("strides", [1])[0] != 1:
                raise SpecError(
                    f"the network of {artifact.name!r} strides in time, so its windows cannot "
                    "share their work here; name a file of stdeploy export --stream, or pass "
                    "--timeline windows"
                )
            others = (kernel[0] - 1) * attributes.get("dilations", [1])[0]
            zeros = _zeros_of(attributes, others)
            first, last = first - zeros, last + others - zeros
        elif node.op_type == "Pad":
            zeros = _frames_before(node, graph, artifact)
            first, last = first - zeros, last - zeros
        if node.op_type == "ReduceMean" and node.output[0] != pooled and _over_time(node, graph):
            raise SpecError(
                f"the network of {artifact.name!r} averages over all frames before its last "
                "layers, so its windows cannot share their work; pass --timeline windows"
            )
        for name in node.output:
            reach[name] = (first, last)
    return -min(first for first, _ in reach.values()), max(last for _, last in reach.values())


def _takes_first_frame(node: onnx.NodeProto, graph: onnx.GraphProto, artifact: Path) -> bool:
    """Whether a Slice takes the first frame of features (N, C, T, H, W), and not all frames.

    Raises:
        SpecError: it takes some others.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    starts, ends, axes, steps = (
        numpy_helper.to_array(stored[name]).ravel().tolist() if name in stored else None
        for name in (*node.input[1:], "", "")[:4]
    )
    if axes is None or _TIME.isdisjoint(axes):
        return False
    place = next(place for place, axis in enumerate(axes) if axis in _TIME)
    taken = tuple(
        None if each is None else each[place] for each in (starts, ends, steps or [1] * 5)
    )
    if taken[0] == 0 and taken[1] is not None and taken[1] > _MOST_FRAMES and taken[2] == 1:
        return False
    if taken != (0, 1, 1) or len(axes) != 1:
        raise _rearranges(artifact)
    return True


def _rearranges(artifact: Path) -> SpecError:
    return SpecError(
        f"the network of {artifact.name!r} takes frames out of its features and puts them "
        "elsewhere, so it is not known which ones they see; pass --timeline windows"
    )


def _zeros_of(attributes: Mapping[str, Any], others: int) -> int:
    """Frames of zeros that a convolution or a pool sees before the first one.

    Args:
        attributes: of the node.
        others: frames that it sees beside one.
    """
    same = attributes.get("auto_pad", b"NOTSET")
    if same in (b"SAME_UPPER", b"SAME_LOWER"):  # where a zero is left over: behind, or before
        return others // 2 if same == b"SAME_UPPER" else others - others // 2
    return int(attributes.get("pads", [0])[0])


def _frames_before(node: onnx.NodeProto, graph: onnx.GraphProto, artifact: Path) -> int:
    """How many frames a Pad of features (N, C, T, H, W) puts before the first one.

    Raises:
        SpecError: the graph does not say.
    """
    wanted = [node.input[place] if len(node.input) > place else "" for place in (1, 3)]
    found = {
        tensor.name: numpy_helper.to_array(tensor).tolist()
        for tensor in graph.initializer
        if tensor.name and tensor.name in wanted
    }
    if any(name and name not in found for name in wanted) or not wanted[0]:
        raise SpecError(
            f"the network of {artifact.name!r} pads by numbers that are not in the file, so it is "
            "not known which frames its features see; pass --timeline windows"
        )
    pads = found[wanted[0]]
    rank = 5
    axes = [axis % rank for axis in found[wanted[1]]] if wanted[1] else range(len(pads) // 2)
    if not wanted[1] and len(pads) != 2 * rank:
        return 0  # of pictures
    return int(sum(pads[place] for place, axis in enumerate(axes) if axis == 2))


def _over_time(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether a ReduceMean of features (N, C, T, H, W) averages over frames."""
    axes = [
        int(axis)
        for tensor in graph.initializer
        if tensor.name in node.input[1:]
        for axis in numpy_helper.to_array(tensor).ravel()
    ]
    return bool(_TIME & {*axes})


def _cut(graph: onnx.GraphProto, artifact: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Let a graph end before the average over time, with any number of frames.

    Returns:
        Weight (K, C) and bias (K,) of the classifier that came after it.
    """
    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    classifier = makers.get("logits")
    average = makers.get(classifier.input[0]) if classifier is not None else None
    if (
        classifier is None
        or classifier.op_type != "Gemm"
        or average is None
        or average.op_type != "ReduceMean"
        or any(name not in weights for name in classifier.input[1:])
    ):
        raise ArtifactError(
            f"{str(artifact)!r} does not end in an average over time and a classifier; export it "
            "again, or pass --timeline windows"
        )
    weight, bias = (numpy_helper.to_array(weights[name]) for name in classifier.input[1:])
    features = onnx.helper.make_tensor_value_info(
        average.input[0], onnx.TensorProto.FLOAT, ("batch", weight.shape[1], "time")
    )
    del graph.output[:], graph.value_info[:]
    graph.output.append(features)
    graph.node.remove(average)
    graph.node.remove(classifier)
    graph.input[0].type.tensor_type.shape.dim[1].dim_param = "time"
    return weight, bias
