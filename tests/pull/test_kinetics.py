import os
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional

from stdeploy.errors import DownloadError
from stdeploy.models.registry import build
from stdeploy.pull import kinetics
from stdeploy.pull.kinetics import SPEC, kinetics_labels, load_arrays, load_flax


def random_flax(rng: np.random.Generator) -> tuple[dict, dict]:
    """Arrays of the names and shapes of the Flax port."""
    model = build(SPEC)
    params: dict = {}
    stats: dict = {}
    for ours, theirs in kinetics._unit_names().items():
        out_channels, in_channels, *size = model.get_submodule(ours).branches[0].coefficients.shape
        unit, norm = params, stats
        for key in theirs:
            unit, norm = unit.setdefault(key, {}), norm.setdefault(key, {})
        unit["Conv_0"] = {
            "kernel": rng.normal(0, 0.05, (*size, in_channels, out_channels)).astype(np.float32)
        }
        unit["BatchNorm_0"] = {"bias": rng.normal(0, 0.2, out_channels).astype(np.float32)}
        shape = (1, 1, 1, 1, out_channels)
        norm["BatchNorm_0"] = {
            "mean": rng.normal(0, 0.2, shape).astype(np.float32),
            "var": rng.uniform(0.5, 2, shape).astype(np.float32),
        }
    params["Logits/Conv3d_0c_1x1"] = {
        "Conv_0": {
            "kernel": rng.normal(0, 0.1, (1, 1, 1, 1024, 400)).astype(np.float32),
            "bias": rng.normal(0, 0.1, 400).astype(np.float32),
        }
    }
    return params, stats


def unit_as_in_tensorflow(x: torch.Tensor, unit: dict, stats: dict, stride: int) -> torch.Tensor:
    """Convolution with "SAME" padding, norm without scale, ReLU: written down independently."""
    kernel = torch.from_numpy(unit["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
    pads = []
    for size, k in zip(reversed(x.shape[2:]), reversed(kernel.shape[2:]), strict=True):
        out = -(-size // stride)
        total = max((out - 1) * stride + k - size, 0)
        pads += [total // 2, total - total // 2]
    x = functional.conv3d(functional.pad(x, pads), kernel, stride=stride)
    mean, var = (
        torch.from_numpy(stats["BatchNorm_0"][k]).reshape(1, -1, 1, 1, 1) for k in ("mean", "var")
    )
    bias = torch.from_numpy(unit["BatchNorm_0"]["bias"]).reshape(1, -1, 1, 1, 1)
    return functional.relu((x - mean) / torch.sqrt(var + 1e-3) + bias)


def test_weights_of_the_flax_port_give_the_same_features() -> None:
    params, stats = random_flax(np.random.default_rng(0))
    model = build(SPEC).eval()
    load_flax(model, params, stats)
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        stem = unit_as_in_tensorflow(x, params["Conv3d_1a_7x7"], stats["Conv3d_1a_7x7"], 2)
        torch.testing.assert_close(model.conv1(x), stem, rtol=1e-4, atol=1e-4)
        pooled = model.conv2[0](stem)
        b, c = "Conv3d_2b_1x1", "Conv3d_2c_3x3"
        second = unit_as_in_tensorflow(pooled, params[b], stats[b], 1)
        second = unit_as_in_tensorflow(second, params[c], stats[c], 1)
        torch.testing.assert_close(model.conv2(stem), second, rtol=1e-4, atol=1e-4)
        # A mixed module: four paths in the order of TensorFlow's concatenation.
        y = torch.randn(1, 832, 2, 3, 3)

        def unit(x: torch.Tensor, name: str) -> torch.Tensor:
            return unit_as_in_tensorflow(x, params["Mixed_5c"][name], stats["Mixed_5c"][name], 1)

        paths = [
            unit(y, "Branch_0/Conv3d_0a_1x1"),
            unit(unit(y, "Branch_1/Conv3d_0a_1x1"), "Branch_1/Conv3d_0b_3x3"),
            unit(unit(y, "Branch_2/Conv3d_0a_1x1"), "Branch_2/Conv3d_0b_3x3"),
            unit(functional.max_pool3d(y, 3, 1, 1), "Branch_3/Conv3d_0b_1x1"),
        ]
        torch.testing.assert_close(model.conv5[2](y), torch.cat(paths, dim=1), rtol=1e-4, atol=1e-4)


def test_missing_arrays_are_named() -> None:
    params, stats = random_flax(np.random.default_rng(0))
    del params["Mixed_4d"]["Branch_2/Conv3d_0b_3x3"]
    with pytest.raises(DownloadError, match="lack 'Branch_2/Conv3d_0b_3x3'"):
        load_flax(build(SPEC), params, stats)


def test_labels_are_the_400_in_alphabetical_order() -> None:
    labels = kinetics_labels()
    assert len(set(labels)) == 400
    assert list(labels) == sorted(labels)
    assert (labels[0], labels[6], labels[399]) == ("abseiling", "arm wrestling", "zumba")


class Attack:
    def __reduce__(self):
        return os.system, ("touch /tmp/stdeploy-was-here",)


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_in_containers_come_back(protocol: int) -> None:
    tree = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": [np.ones(2)]}
    found = load_arrays(pickle.dumps(tree, protocol=protocol))
    np.testing.assert_array_equal(found["a"]["b"], tree["a"]["b"])
    assert found["a"]["b"].dtype == np.float32
    np.testing.assert_array_equal(found["c"][0], [1, 1])


@pytest.mark.parametrize("thing", [Attack(), print, np.load, {"x": [os.path.join]}])
def test_anything_that_could_run_is_refused(thing: object) -> None:
    with pytest.raises(DownloadError, match="only NumPy arrays are admitted"):
        load_arrays(pickle.dumps(thing))


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": np.ones(9)})[:-20]])
def test_damaged_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(DownloadError, match="cannot be read"):
        load_arrays(content)
