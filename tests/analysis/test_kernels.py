import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from stdeploy.analysis.kernels import read_kernels, stage_of
from stdeploy.errors import ArtifactError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import filters_of, fuse_checkpoint
from stdeploy.models.checkpoint import save_checkpoint
from tests.helpers.models import card_of, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    for branches in ("single", "multi"):
        model = tiny_model(branches=branches, temporal_lengths=(1, 3, 3, 3, 5))
        save_checkpoint(folder / f"{branches}.pt", model, card_of(model))
        fuse_checkpoint(folder / f"{branches}.pt")
    export_onnx(folder / "multi.fused.safetensors")
    return folder


def by_name(path: Path, **how: bool) -> dict[str, np.ndarray]:
    return {kernel.name: kernel.weight for kernel in read_kernels(path, **how)}


def test_filters_of_one_branch_are_given_as_trained(folder: Path) -> None:
    model = tiny_model(branches="single", temporal_lengths=(1, 3, 3, 3, 5))
    found = by_name(folder / "single.pt")
    expected = {
        name: layer.typed_branches()[0].kernel().detach().numpy()
        for name, layer in filters_of(model)
        if layer.kernel_size[0] > 1
    }
    assert list(found) == list(expected)
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight)


def test_branches_are_summed_with_their_norms(folder: Path) -> None:
    model = tiny_model(branches="multi", temporal_lengths=(1, 3, 3, 3, 5))
    found = by_name(folder / "multi.pt")
    layer = dict(filters_of(model))["conv5.1.conv2"]
    expected = np.zeros(found["conv5.1.conv2"].shape)
    for branch in layer.typed_branches():
        norm = branch.norm
        scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().double().numpy()
        kernel = branch.kernel().detach().double().numpy() * scale.reshape(-1, 1, 1, 1, 1)
        skip = (5 - kernel.shape[2]) // 2
        expected[:, :, skip : 5 - skip] += kernel
    np.testing.assert_allclose(found["conv5.1.conv2"], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("branches", ["single", "multi"])
def test_before_and_after_fusing_are_alike_with_norms(folder: Path, branches: str) -> None:
    before = by_name(folder / f"{branches}.pt", folded=True)
    after = by_name(folder / f"{branches}.fused.safetensors")
    assert list(before) == list(after)
    for name, weight in before.items():
        np.testing.assert_allclose(after[name], weight, rtol=1e-5, atol=1e-7)


def test_onnx_holds_the_fused_kernels(folder: Path) -> None:
    fused = by_name(folder / "multi.fused.safetensors")
    exported = by_name(folder / "multi.onnx")
    assert list(exported) == list(fused)
    for name, weight in fused.items():
        np.testing.assert_array_equal(exported[name], weight)


def test_networks_of_other_programs_are_read(tmp_path: Path) -> None:
    tensors = {
        "module.backbone.layer3.10.conv.weight": torch.randn(4, 3, 3, 1, 1),
        "module.backbone.layer3.2.conv.weight": torch.randn(4, 3, 5, 3, 3, dtype=torch.float16),
        "module.backbone.stem.conv.weight": torch.randn(4, 3, 1, 7, 7),
        "module.backbone.fc.weight": torch.randn(4, 3),
    }
    expected = ["layer3.10.conv", "layer3.2.conv"]
    torch.save(tensors, tmp_path / "plain.pth")
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "nested.ckpt")
    torch.save({"model_state": {"model": tensors}}, tmp_path / "deep.bin")
    for name in ("plain.pth", "nested.ckpt", "deep.bin"):
        kernels = read_kernels(tmp_path / name)
        assert [kernel.name for kernel in kernels] == expected
        assert {kernel.stage for kernel in kernels} == {"layer3"}
        assert kernels[1].weight.dtype == np.float32
    save_file(tensors, tmp_path / "plain.safetensors")
    # Such a file has no order: numbers are sorted as numbers.
    assert [k.name for k in read_kernels(tmp_path / "plain.safetensors")] == expected[::-1]


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("conv3.1.path_a.1.0", "conv3"),
        ("layer3.0.conv2", "layer3"),
        ("blocks.3.res_blocks.0.branch2.conv_b", "blocks.3"),
        ("Mixed_5c.branch1.0.conv", "Mixed_5"),
        ("s4.pathway0_res1.branch2.b", "s4"),
        ("stem.conv", "stem"),
        ("conv3d", "conv3"),
    ],
)
def test_stages_follow_from_names(name: str, stage: str) -> None:
    assert stage_of(name) == stage


def write_pth(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def quantised(path: Path) -> Path:
    weight = helper.make_tensor("w", TensorProto.INT8, [1, 1, 3, 1, 1], [1, 2, 3])
    scale = helper.make_tensor("s", TensorProto.FLOAT, [], [0.1])
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
        helper.make_node("Conv", ["x", "d"], ["y"]),
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 3, 1, 1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [value], [out], [weight, scale])
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f / "missing.pt", "does not exist"),
        (lambda f: write_pth(f / "a.txt", {}), "holds no weights that can be analysed"),
        (lambda f: write_pth(f / "a.pth", {"w.weight": torch.ones(2, 2)}), "none of its 1 tensors"),
        (lambda f: write_pth(f / "a.pth", [1, 2]), "holds no weights; a state_dict is wanted"),
        (  # of a few bytes, and of all memory once it is copied
            lambda f: write_pth(f / "a.pth", {"w": torch.zeros(1).expand(99, 99, 9, 99, 99)}),
            "holds 'w', which is no tensor with numbers of its own",
        ),
        (
            lambda f: write_pth(f / "a.pth", {"w": torch.ones(1, 1, 3, 1, 1).to_sparse()}),
            "holds 'w', which is no tensor with numbers of its own",
        ),
        (
            lambda f: write_pth(f / "a.pth", {"w.weight": torch.full((1, 1, 3, 1, 1), torch.nan)}),
            "layer 'w' .* not finite",
        ),
        (lambda f: quantised(f / "a.onnx"), "quantised; analyse the file"),
    ],
)
def test_files_without_filters_are_refused(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    path = make(tmp_path)
    with pytest.raises(ArtifactError, match=message) as refused:
        read_kernels(path)
    assert re.search(re.escape(path.name), str(refused.value))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.onnx"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind" * 9)
    with pytest.raises(ArtifactError, match=name):
        read_kernels(tmp_path / name)
