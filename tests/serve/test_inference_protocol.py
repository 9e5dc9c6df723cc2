"""/v2 as the client of Triton and plain HTTP clients see it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from stdeploy.artifacts.golden import golden_clip
from stdeploy.backends.base import Runtime, RuntimeOptions
from stdeploy.backends.loader import open_runtime
from tests.serve.conftest import BACKEND, CLIP, Server

FRAMES = np.stack([golden_clip(seed, CLIP.frames_shape) for seed in (3, 4)])


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient("{}:{}".format(*server.address)) as client:
        yield client


@pytest.fixture(scope="module")
def runtime(artifact: Path) -> Iterator[Runtime]:
    with open_runtime(artifact, options=RuntimeOptions(backend=BACKEND, threads=1)) as runtime:
        yield runtime


def test_tritons_client_finds_server_and_model(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
    metadata = client.get_model_metadata("tiny")
    assert metadata["inputs"] == [
        {"name": "frames", "datatype": "UINT8", "shape": [-1, 6, 32, 32, 3]}
    ]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 5]}]
    assert client.get_model_config("tiny")["input"][0]["dims"] == [6, 32, 32, 3]
    with pytest.raises(triton.InferenceServerException, match="no model 'other' here"):
        client.get_model_metadata("other")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritons_client_gets_the_librarys_logits_to_the_bit(
    client: triton.InferenceServerClient, runtime: Runtime, binary_in: bool, binary_out: bool
) -> None:
    frames = triton.InferInput("frames", FRAMES.shape, "UINT8")
    frames.set_data_from_numpy(FRAMES, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("logits", binary_data=binary_out)
    result = client.infer("tiny", [frames], outputs=[wanted], request_id="seven")
    logits = result.as_numpy("logits")
    # One by one, as the server runs them on a CPU.
    expected = np.concatenate([runtime.run(FRAMES[n : n + 1]) for n in range(2)])
    assert logits.dtype == np.float32
    assert logits.tobytes() == expected.tobytes()
    assert result.get_response()["id"] == "seven"


def test_classes_are_named_as_triton_names_them(
    client: triton.InferenceServerClient, runtime: Runtime
) -> None:
    frames = triton.InferInput("frames", FRAMES.shape, "UINT8")
    frames.set_data_from_numpy(FRAMES)
    for binary in (True, False):
        wanted = triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)
        named = client.infer("tiny", [frames], outputs=[wanted]).as_numpy("logits")
        assert named.shape == (2, 2)
        logits = runtime.run(FRAMES[:1])[0]
        best = int(logits.argmax())
        text = named[0, 0].decode() if isinstance(named[0, 0], bytes) else named[0, 0]
        assert text == f"{logits[best]:f}:{best}:class {best}"


def request(**changes: Any) -> dict[str, Any]:
    tensor = {
        "name": "frames",
        "shape": [1, *CLIP.frames_shape],
        "datatype": "UINT8",
        "data": FRAMES[0].ravel().tolist(),
    }
    return {"inputs": [tensor | changes]}


def infer(server: Server, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        f"{server.url}/v2/models/tiny/infer", content=content, headers=headers, timeout=60
    )


def test_plain_json_is_enough(server: Server, runtime: Runtime) -> None:
    nested = request(data=FRAMES[:1].tolist())
    for body in (request(), nested):
        (output,) = infer(server, body).json()["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [1, 5])
        assert np.array_equal(np.float32(output["data"]), runtime.run(FRAMES[:1])[0])


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"", {}, "is no JSON"),
        (b"[" * 100_000, {}, "is no JSON"),
        (b"[1]", {}, "no JSON object"),
        ({}, {}, "takes one, named 'frames'"),
        ({"inputs": [{"name": "other"}]}, {}, "takes one, named 'frames'"),
        (request(datatype="FP32"), {}, "'FP32'; UINT8 is taken"),
        (request(shape=[1, 6, 32, 32, 4]), {}, r"\[1, 6, 32, 32, 4\]; \[N, 6, 32, 32, 3\]"),
        (request(shape=[0, 6, 32, 32, 3]), {}, "N at least 1"),
        (request(shape=[True, 6, 32, 32, 3]), {}, "is taken"),
        (request(data=[1, 2, 3]), {}, "3 numbers; the shape needs 18432"),
        (request(data=[[1], [2, 3]]), {}, "3 numbers"),
        (request(data=[[1], 2]), {}, "2 numbers"),
        (request(data=None), {}, "no list"),
        (request(data=["x" * 100_000] + ["a"] * 18431), {}, "integers from 0 to 255"),
        (request(data=[True] * 18432), {}, "integers from 0 to 255"),
        (request(data=[256] * 18432), {}, "integers from 0 to 255"),
        (request(data=[0.5] * 18432), {}, "integers from 0 to 255"),
        (request(data=["a"] * 18432), {}, "integers from 0 to 255"),
        (request(parameters={"binary_data_size": 18432}), {}, "0 bytes follow"),
        (request(parameters=3), {}, "parameters"),
        (request() | {"id": 3}, {}, "id: a string"),
        (request() | {"outputs": [{"name": "other"}]}, {}, "named 'logits'"),
        (request() | {"outputs": []}, {}, "a list is wanted"),
        (
            request() | {"outputs": [{"name": "logits", "parameters": {"classification": "x"}}]},
            {},
            "a number of classes",
        ),
        (
            request(parameters={"shared_memory_region": "a", "shared_memory_byte_size": 18432}),
            {},
            "shared memory is not offered here; send and ask for binary data",
        ),
        (
            request()
            | {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "a"}}]},
            {},
            "shared memory is not offered here",
        ),
        (b"{}", {"Inference-Header-Content-Length": "3"}, "the body has 2 bytes"),
        (b"{}", {"Inference-Header-Content-Length": "-1"}, "the body has 2 bytes"),
        (b"{}", {"Inference-Header-Content-Length": "1" * 5000}, "the body has 2 bytes"),
    ],
)
def test_what_the_protocol_does_not_allow_is_refused_in_words(
    server: Server, body: Any, headers: dict[str, str], words: str
) -> None:
    answer = infer(server, body, headers)
    assert answer.status_code == 400, answer.text
    with pytest.raises(ValueError, match=words):
        raise ValueError(answer.json()["error"])
