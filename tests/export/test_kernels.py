"""The numbers in an .onnx file are its parent's, and whichever is not is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import Precision
from stdeploy.errors import ParityError
from stdeploy.export import quantise
from stdeploy.export.kernels import Deviation, deviations
from stdeploy.export.layers import NetworkLayers, layers_of
from stdeploy.export.onnx import to_onnx
from stdeploy.export.quantise import Quantiser
from stdeploy.models.checkpoint import load_model
from tests.export.files import LENGTHS, PLACE, PRECISIONS, altered, fused_network
from tests.helpers.models import TINY_CLIP, card_of, tiny_model
from tests.helpers.onnx_faults import (
    CHANNEL_FAULTS,
    HUNDREDTH,
    PADDED,
    array_of,
    convolution,
    places,
    plant,
    replace,
    stored_weight,
)

OLD = Path(__file__).parents[1] / "backends" / "version_0_1_0"


@pytest.fixture(scope="module")
def parent(exported_folder: Path) -> NetworkLayers:
    model, card = load_model(exported_folder / "a.fused.safetensors")
    return layers_of(model, card.clip)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fault", CHANNEL_FAULTS)
def test_a_fault_in_one_channel_is_caught_and_named(
    exported_folder: Path, parent: NetworkLayers, tmp_path: Path, precision: str, fault: str
) -> None:
    for place in places(tiny_model(temporal_lengths=LENGTHS), fault, count=6):
        path = altered(
            exported_folder, tmp_path, precision, lambda proto, at=place: plant(proto, fault, at)
        )
        (found,) = deviations(path, parent)
        assert found.layer == place.layer
        if fault == PADDED:
            assert found.text in (
                "its padding is 2x1x1 before and 0x1x1 behind, not 1x1x1 before and 1x1x1 behind",
                "its padding is 3x1x1 before and 1x1x1 behind, not 2x1x1 before and 2x1x1 behind",
            )
        else:
            assert found.channel == place.channel
            assert found.text.startswith("its kernel is off by ")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bias_is_compared(
    exported_folder: Path, parent: NetworkLayers, tmp_path: Path, precision: str
) -> None:
    def change(proto: onnx.ModelProto) -> None:
        bias = array_of(proto, "model.conv3.0.downsample.bias")
        bias[3] += np.asarray(0.02).astype(bias.dtype)
        replace(proto, "model.conv3.0.downsample.bias", bias)

    (found,) = deviations(altered(exported_folder, tmp_path, precision, change), parent)
    assert (found.layer, found.channel) == ("conv3.0.downsample", 3)
    assert found.text.startswith("its bias is off by 2.0e-02")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_classifier_and_the_normalisation_have_to_be_equal(
    exported_folder: Path, parent: NetworkLayers, tmp_path: Path, precision: str
) -> None:
    def change(proto: onnx.ModelProto) -> None:
        weight = array_of(proto, "model.head.classifier.weight")
        weight[2, 7] = np.nextafter(weight[2, 7], np.float32(9))
        replace(proto, "model.head.classifier.weight", weight)
        offset = array_of(proto, "normalise.offset")
        offset[1] = np.nextafter(offset[1], np.float32(9))
        replace(proto, "normalise.offset", offset)

    normalisation, classifier = deviations(
        altered(exported_folder, tmp_path, precision, change), parent
    )
    assert normalisation.place == "colour 1 of the frames"
    assert (classifier.layer, classifier.channel) == ("head.classifier", 2)
    assert classifier.text.endswith("it has to be equal")


def set_attribute(proto: onnx.ModelProto, name: str, values: list[int]) -> None:
    node = convolution(proto, stored_weight(proto, "conv3.0.conv1"))
    attribute = next(each for each in node.attribute if each.name == name)
    attribute.CopyFrom(onnx.helper.make_attribute(name, values if len(values) > 1 else values[0]))


def pool_otherwise(proto: onnx.ModelProto) -> None:
    pool = next(node for node in proto.graph.node if node.op_type == "MaxPool")
    pads = next(each for each in pool.attribute if each.name == "pads")
    pads.ints[1], pads.ints[4] = 0, 2


def feed_otherwise(proto: onnx.ModelProto) -> None:
    """conv3.0's shortcut gets what conv3.0.conv1 makes; their sizes differ, but names do not."""
    shortcut = convolution(proto, stored_weight(proto, "conv3.0.downsample"))
    shortcut.input[0] = convolution(proto, stored_weight(proto, "conv3.0.conv1")).output[0]


@pytest.mark.parametrize(
    ("change", "layer", "text"),
    [
        (
            lambda proto: set_attribute(proto, "strides", [1, 1, 1]),
            "conv3.0.conv1",
            "its stride is 1x1x1, not 1x2x2",
        ),
        (
            lambda proto: set_attribute(proto, "dilations", [2, 1, 1]),
            "conv3.0.conv1",
            "its dilation is 2x1x1, not 1x1x1",
        ),
        (
            lambda proto: set_attribute(proto, "group", [2]),
            "conv3.0.conv1",
            "its number of groups is 2, not 1",
        ),
        (pool_otherwise, "conv1", "the file alone has a max pool behind it of extent 1x3x3"),
        (feed_otherwise, "conv3.0.downsample", "it reads conv3.0.conv1, not conv1, conv2.0.conv2"),
    ],
    ids=("stride", "dilation", "groups", "pool", "input"),
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_windows_and_what_a_layer_reads_are_compared(
    exported_folder: Path,
    parent: NetworkLayers,
    tmp_path: Path,
    precision: str,
    change: Callable[[onnx.ModelProto], None],
    layer: str,
    text: str,
) -> None:
    found = deviations(altered(exported_folder, tmp_path, precision, change), parent)
    assert found[0].layer == layer
    assert found[0].text.startswith(text)


def test_a_number_that_is_none_and_one_too_large_for_fp16_are_named(
    exported_folder: Path, parent: NetworkLayers, tmp_path: Path
) -> None:
    def change(proto: onnx.ModelProto) -> None:
        name = stored_weight(proto, PLACE.layer)
        kernel = array_of(proto, name)
        kernel[1, 0, 0, 0, 0], kernel[4, 0, 0, 0, 0] = np.nan, np.inf
        replace(proto, name, kernel)

    found = deviations(altered(exported_folder, tmp_path, "fp16", change), parent)
    assert [each.channel for each in found] == [1, 4]


def test_an_int8_step_that_hides_its_kernel_is_named(
    exported_folder: Path, parent: NetworkLayers, tmp_path: Path
) -> None:
    """Half of a large enough step is more than any weight."""

    def change(proto: onnx.ModelProto) -> None:
        plant(proto, "a channel is 0", PLACE)
        name = stored_weight(proto, PLACE.layer).replace("_quantized", "_scale")
        scale = array_of(proto, name)
        scale[PLACE.channel] = 1e3
        replace(proto, name, scale)

    (found,) = deviations(altered(exported_folder, tmp_path, "int8", change), parent)
    assert (found.layer, found.channel) == (PLACE.layer, PLACE.channel)


# Honest files: no alarm.


@pytest.fixture
def seven_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "cpu_multiplies", lambda _precision: False)


NETWORKS = [
    pytest.param("i3d-resnet18", {"seed": 1, "width": 0.2, "branches": "multi"}, id="i3d-resnet18"),
    pytest.param("s3d-resnet50", {"seed": 2}, id="s3d-resnet50", marks=pytest.mark.slow),
    pytest.param("i3d-resnet50", {"seed": 3, "width": 0.07}, id="50", marks=pytest.mark.slow),
    # At this width two parallel layers of conv3.1 have one shape.
    pytest.param("i3d-inception", {"seed": 4}, id="i3d-inception"),
]


def written(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save_model(proto, path)
    return path


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        *NETWORKS[:-1],
        pytest.param(*NETWORKS[-1].values, id="i3d-inception", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_of_random_networks_gives_no_alarm(
    tmp_path: Path, architecture: str, fields: dict[str, Any], precision: Precision
) -> None:
    model = fused_network(architecture, temporal_lengths=(5, 1, 3, 1, 5), **fields)
    layers = layers_of(model, TINY_CLIP)
    card = card_of(model).model_copy(update={"precision": precision})
    assert deviations(written(to_onnx(model, card), tmp_path / "a.onnx"), layers) == []


@pytest.mark.parametrize(("architecture", "fields"), NETWORKS)
def test_fp32_and_int8_of_random_networks_give_no_alarm(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    fields: dict[str, Any],
) -> None:
    model = fused_network(architecture, temporal_lengths=(5, 1, 3, 1, 5), **fields)
    layers = layers_of(model, TINY_CLIP)
    graph = to_onnx(model, card_of(model))
    assert deviations(written(graph, tmp_path / "a.onnx"), layers) == []
    quantiser = Quantiser(graph, golden_clip(1, TINY_CLIP.frames_shape)[None])
    kept = list(quantiser.layers)[::7]
    for products in (True, False):  # 8 bits, 7 bits
        monkeypatch.setattr(quantise, "cpu_multiplies", lambda _precision, has=products: has)
        path = written(
            quantiser.quantise([n for n in quantiser.layers if n not in kept]), tmp_path / "a.onnx"
        )
        assert deviations(path, layers) == []


@pytest.mark.usefixtures("seven_bits")
@pytest.mark.parametrize("fault", CHANNEL_FAULTS)
def test_a_fault_in_weights_of_seven_bits_is_caught(
    tmp_path: Path, exported_folder: Path, parent: NetworkLayers, fault: str
) -> None:
    quantiser = Quantiser(
        onnx.load(exported_folder / "a.onnx"), golden_clip(1, TINY_CLIP.frames_shape)[None]
    )
    proto = quantiser.quantise(quantiser.layers)
    largest = np.abs(array_of(proto, stored_weight(proto, PLACE.layer)).astype(int)).max()
    assert largest == 64
    assert deviations(written(proto, tmp_path / "a.onnx"), parent) == []
    for place in places(tiny_model(temporal_lengths=LENGTHS), fault, count=6):
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        plant(changed, fault, place)
        (found,) = deviations(written(changed, tmp_path / "a.onnx"), parent)
        assert found.layer == place.layer


@pytest.mark.parametrize("name", ["before.onnx", "before.int8.onnx"])
def test_files_of_version_0_1_0_hold_their_parents_numbers(name: str) -> None:
    model, card = load_model(OLD / "before.fused.safetensors")
    assert deviations(OLD / name, layers_of(model, card.clip)) == []


# Which layer is which.


def rename(proto: onnx.ModelProto) -> None:
    """Other names for all weights, as other programs give them."""
    names = {t.name: f"t{number}" for number, t in enumerate(proto.graph.initializer)}
    for tensor in proto.graph.initializer:
        tensor.name = names[tensor.name]
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_layers_without_their_names_are_known_by_what_they_read(
    exported_folder: Path, parent: NetworkLayers, tmp_path: Path, precision: str
) -> None:
    assert deviations(altered(exported_folder, tmp_path, precision, rename), parent) == []

    def change(proto: onnx.ModelProto) -> None:
        plant(proto, HUNDREDTH, PLACE)
        rename(proto)

    (found,) = deviations(altered(exported_folder, tmp_path, precision, change), parent)
    assert (found.layer, found.channel) == (PLACE.layer, PLACE.channel)


def test_parallel_layers_of_one_shape_without_names_are_refused(tmp_path: Path) -> None:
    model = fused_network("i3d-inception")
    layers = layers_of(model, TINY_CLIP)
    graph = to_onnx(model, card_of(model))
    rename(graph)
    with pytest.raises(ParityError, match=r"could be 'conv\S+' or 'conv\S+'; which of them"):
        deviations(written(graph, tmp_path / "a.onnx"), layers)


def test_equal_tensors_that_are_stored_once_are_no_alarm(tmp_path: Path) -> None:
    """Kernels and biases of 0, as norms that start with a factor of 0 leave them."""
    model = fused_network()
    blocks = [block for stage in model.stages() for block in stage]
    with torch.no_grad():
        for block in blocks:
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
            block.conv1.bias.fill_(0.25)
    layers = layers_of(model, TINY_CLIP)
    graph = to_onnx(model, card_of(model))
    weights = {node.input[1] for node in graph.graph.node if node.op_type == "Conv"}
    assert len(weights) < 20  # the exporter does store some of them once
    assert deviations(written(graph, tmp_path / "a.onnx"), layers) == []
    (shared,) = {w for w in weights if "conv2.0.conv2" in w}
    kernel = array_of(graph, shared)
    kernel[3] = 1e-3
    replace(graph, shared, kernel)
    found = deviations(written(graph, tmp_path / "a.onnx"), layers)
    assert {(each.layer, each.channel) for each in found} == {
        ("conv2.0.conv2", 3),
        ("conv2.1.conv2", 3),
    }


def drop_layer(proto: onnx.ModelProto) -> None:
    """The last convolution is left out, and what it read goes on in its place."""
    last = convolution(proto, "model.conv5.1.conv2.weight")
    (source, made) = last.input[0], last.output[0]
    proto.graph.node.remove(last)
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name == made:
                node.input[place] = source


def cut_normalisation(proto: onnx.ModelProto) -> None:
    turn = next(node for node in proto.graph.node if node.op_type == "Transpose")
    attribute = next(each for each in turn.attribute if each.name == "perm")
    attribute.ints[:] = [0, 4, 1, 3, 2]


def compute_weight(proto: onnx.ModelProto) -> None:
    node = convolution(proto, "model.conv5.1.conv2.weight")
    proto.graph.node.insert(
        0, onnx.helper.make_node("Neg", [node.input[1]], ["negative"], name="negative")
    )
    node.input[1] = "negative"


def leave_padding(proto: onnx.ModelProto) -> None:
    node = convolution(proto, "model.conv5.1.conv2.weight")
    attribute = next(each for each in node.attribute if each.name == "auto_pad")
    attribute.s = b"SAME_UPPER"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_layer, r"lacks the layer 'conv5\.1\.conv2'"),
        (cut_normalisation, r"turned from \(N, T, H, W, 3\) to \(N, 3, T, H, W\)"),
        (compute_weight, "takes 'negative' from elsewhere"),
        (leave_padding, r"leaves its padding to the runtime \(auto_pad SAME_UPPER\)"),
    ],
)
def test_a_graph_of_another_structure_is_refused(
    exported_folder: Path,
    parent: NetworkLayers,
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    message: str,
) -> None:
    with pytest.raises(ParityError, match=message):
        deviations(altered(exported_folder, tmp_path, "fp32", change), parent)


def test_places_are_told_in_words() -> None:
    assert Deviation("conv1", 3, "").place == "layer 'conv1', channel 3,"
    assert Deviation("conv1", None, "").place == "layer 'conv1'"
