"""/v2: the Open Inference Protocol, so that clients of Triton and KServe work unchanged.

One model, one version, one input `frames` (uint8, N x T x H x W x 3, RGB), one output `logits`
(float32, N x K), as JSON or with the binary-tensor extension; and Triton's extension that names
classes. Specification: github.com/kserve/open-inference-protocol.
"""

import asyncio
import dataclasses
import math
import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from stdeploy import __version__
from stdeploy.inference.prediction import Logits
from stdeploy.serve.errors import REFUSED, RequestError
from stdeploy.serve.json_tensors import JsonTensorError, JsonWithTensor, most_json_bytes
from stdeploy.serve.request_gate import RequestGate
from stdeploy.serve.scheduling import ClientSlots, Job
from stdeploy.serve.schemas import Json, as_json
from stdeploy.serve.service import Model

VERSION = "1"
_HEADER_LENGTH = "Inference-Header-Content-Length"
_EXTENSIONS = ("binary_tensor_data", "classification")
_SHARED_MEMORY = "shared_memory_"
_MOST_OUTPUTS = 8
_MOST_DIGITS = 12
_BYTES_OF_NUMBER = 4  # in JSON, about


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """An output that was asked for.

    Attributes:
        binary: behind the JSON, not in it.
        classes: names and scores of so many, best first, in place of the numbers; 0 for these.
    """

    binary: bool
    classes: int


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A request for inference.

    Attributes:
        frames: uint8 (N, T, H, W, 3).
        id: comes back with the answer.
        outputs: those that were asked for, in order.
    """

    frames: NDArray[np.uint8]
    id: str | None
    outputs: tuple[_Wanted, ...]


class _Inference:
    """What the routes of the model do.

    Args:
        gate: what requests pass.
    """

    def __init__(self, gate: RequestGate) -> None:
        self._gate = gate
        self._reading = ClientSlots(1)  # one at a time: JSON grows when it is read

    def known(self, model: str, version: str | None) -> Model:
        """The model of a route.

        Raises:
            RequestError: there is none of this name and version, or it does not answer now.
        """
        there = self._gate.service().model
        if model != there.name or version not in (None, VERSION):
            which = f"{model!r}" + (f", version {version!r}" if version is not None else "")
            raise RequestError(
                "not_found", f"no model {which} here; there is {there.name!r}, version {VERSION}"
            )
        return there

    async def infer(self, request: Request, model: str, version: str | None) -> Response:
        """Answer with the logits of the clips in a request.

        Raises:
            RequestError: it is not what the protocol or the model takes, or it is refused.
        """
        service = self._gate.service()
        there = self.known(model, version)
        start = time.monotonic()
        header_length = request.headers.get(_HEADER_LENGTH)
        most = self._gate.settings.max_body_bytes
        limit = most if header_length is not None else min(most, most_json_bytes(there.card.clip))
        async with self._gate.body(request, limit, _too_large) as body:
            received = time.monotonic()
            self._gate.metrics.upload.observe(received - start)
            self._gate.metrics.upload_bytes.observe(len(body))
            clip_bytes = math.prod(there.card.clip.frames_shape)
            if header_length is None:
                clip_bytes *= _BYTES_OF_NUMBER
            clips = max(1, round(len(body) / clip_bytes))
            with self._gate.admitted(request, service.durations, clips) as place:
                job = Job(place, received + self._gate.settings.request_seconds)

                async def work() -> tuple[_Asked, NDArray[np.float32]]:
                    async with self._reading.hold(job):
                        asked = await asyncio.to_thread(_read, body, header_length, there)
                    return asked, await service.infer(asked.frames, job)

                asked, logits = await self._gate.answer(request, job, work())
                self._gate.metrics.queue.observe(sum(job.waited.values()))
                self._gate.metrics.total.observe(time.monotonic() - start)
                return await asyncio.to_thread(_answer, asked, logits, there)


def routes(gate: RequestGate) -> APIRouter:
    """The routes of /v2."""
    router = APIRouter(prefix="/v2", responses=REFUSED, default_response_class=Json)
    inference = _Inference(gate)
    known, infer = inference.known, inference.infer

    @router.get("", summary="What this server is")
    async def server() -> dict[str, Any]:
        return {"name": "stdeploy", "version": __version__, "extensions": _EXTENSIONS}

    @router.get("/health/live", summary="Whether it lives")
    async def live() -> Response:
        failure = gate.health.failure
        return Json({"live": failure is None}, 200 if failure is None else 503)

    @router.get("/health/ready", summary="Whether it takes requests")
    async def ready() -> Response:
        return Json(
            # "live" stands in the specification, and clients may look for it.
            {"ready": gate.health.ready, "live": gate.health.ready},
            200 if gate.health.ready else 503,
        )

    # Each route once for the model, once for its version.
    @router.get("/models/{model}", summary="What a model takes and gives")
    async def metadata(model: str) -> dict[str, Any]:
        return _metadata(known(model, None))

    @router.get("/models/{model}/versions/{version}", summary="The same, of a version")
    async def version_metadata(model: str, version: str) -> dict[str, Any]:
        return _metadata(known(model, version))

    @router.get("/models/{model}/ready", summary="Whether a model takes requests")
    async def model_ready(model: str) -> dict[str, Any]:
        return {"name": known(model, None).name, "ready": True}

    @router.get("/models/{model}/versions/{version}/ready", summary="The same, of a version")
    async def version_ready(model: str, version: str) -> dict[str, Any]:
        return {"name": known(model, version).name, "ready": True}

    @router.get("/models/{model}/config", summary="What Triton's own clients ask for")
    async def config(model: str) -> dict[str, Any]:
        return _config(known(model, None), gate)

    @router.get("/models/{model}/versions/{version}/config", summary="The same, of a version")
    async def version_config(model: str, version: str) -> dict[str, Any]:
        return _config(known(model, version), gate)

    @router.post("/models/{model}/infer", summary="Logits of clips", openapi_extra=_BODY)
    async def model_infer(request: Request, model: str) -> Response:
        return await infer(request, model, None)

    @router.post(
        "/models/{model}/versions/{version}/infer",
        summary="The same, of a version",
        openapi_extra=_BODY,
    )
    async def version_infer(request: Request, model: str, version: str) -> Response:
        return await infer(request, model, version)

    return router


def _metadata(model: Model) -> dict[str, Any]:
    card = model.card
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "stdeploy",
        "inputs": [{"name": "frames", "datatype": "UINT8", "shape": [-1, *card.clip.frames_shape]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, card.model.num_classes]}],
    }


def _config(model: Model, gate: RequestGate) -> dict[str, Any]:
    card = model.card
    largest = gate.settings.max_body_bytes // int(np.prod(card.clip.frames_shape))
    return {
        "name": model.name,
        "platform": "stdeploy",
        "max_batch_size": largest,
        "input": [
            {
                "name": "frames",
                "data_type": "TYPE_UINT8",
                "dims": list(card.clip.frames_shape),
            }
        ],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [card.model.num_classes]}],
    }


def _read(body: bytearray, header_length: str | None, model: Model) -> _Asked:
    """Parse and check a request.

    Raises:
        RequestError: it is not what the protocol or the model takes.
    """
    length = len(body)
    if header_length is not None:
        if (
            not header_length.isdecimal()
            or len(header_length) > _MOST_DIGITS
            or int(header_length) > length
        ):
            raise _bad(f"{_HEADER_LENGTH} is {header_length[:20]!r}; the body has {length} bytes")
        length = int(header_length)
    if length > (most := most_json_bytes(model.card.clip)):
        raise _too_large(most)
    try:
        text = JsonWithTensor(body, length)
    except JsonTensorError as error:
        raise _bad(str(error)) from error
    asked = text.beside
    if not isinstance(asked, dict):
        raise _bad("the body is no JSON object")
    inputs = asked.get("inputs")
    if (
        not isinstance(inputs, list)
        or len(inputs) != 1
        or not isinstance(inputs[0], dict)
        or inputs[0].get("name") != "frames"
    ):
        raise _bad("inputs: this model takes one, named 'frames'")
    name = asked.get("id")
    if name is not None and not isinstance(name, str):
        raise _bad("id: a string is wanted")
    return _Asked(
        _frames(inputs[0], text, memoryview(body)[length:], model), name, _outputs(asked, model)
    )


def _frames(
    tensor: dict[str, Any], text: JsonWithTensor, behind: memoryview, model: Model
) -> NDArray[np.uint8]:
    clip = model.card.clip.frames_shape
    if tensor.get("datatype") != "UINT8":
        raise _bad(f"frames: the datatype is {tensor.get('datatype')!r:.40}; UINT8 is taken")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 5
        or not all(type(side) is int for side in shape)
        or tuple(shape[1:]) != clip
        or shape[0] < 1
    ):
        needed = ", ".join(map(str, clip))
        raise _bad(f"frames: the shape is {str(shape)[:60]}; [N, {needed}] is taken, N at least 1")
    size = math.prod(shape)
    in_bytes = _parameters(tensor).get("binary_data_size")
    if in_bytes is not None:
        if in_bytes != size or len(behind) != size or "data" in tensor:
            raise _bad(
                f"frames: {len(behind)} bytes follow the JSON and binary_data_size is "
                f"{str(in_bytes)[:20]}; the shape needs {size}"
            )
        return np.frombuffer(behind, np.uint8).reshape(shape)
    if not isinstance(tensor.get("data"), list):
        raise _bad("frames: data is missing, or no list")
    try:
        return text.tensor(tuple(shape))
    except JsonTensorError as error:
        raise _bad(f"frames: {error}") from error


def _outputs(asked: dict[str, Any], model: Model) -> tuple[_Wanted, ...]:
    all_binary = _parameters(asked).get("binary_data_output") is True
    outputs = asked.get("outputs")
    if outputs is None:
        return (_Wanted(all_binary, 0),)
    if not isinstance(outputs, list) or not 1 <= len(outputs) <= _MOST_OUTPUTS:
        raise _bad("outputs: a list is wanted")
    wanted = []
    for output in outputs:
        if not isinstance(output, dict) or output.get("name") != "logits":
            raise _bad("outputs: this model gives one, named 'logits'")
        parameters = _parameters(output)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise _bad("classification: a number of classes is wanted")
        wanted.append(
            _Wanted(
                parameters.get("binary_data", all_binary) is True,
                min(classes, model.card.model.num_classes),
            )
        )
    return tuple(wanted)


def _parameters(of: dict[str, Any]) -> dict[str, Any]:
    parameters = of.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _bad("parameters: an object is wanted")
    if any(str(name).startswith(_SHARED_MEMORY) for name in parameters):
        raise _bad("shared memory is not offered here; send and ask for binary data")
    return parameters


def _answer(asked: _Asked, logits: NDArray[np.float32], model: Model) -> Response:
    tensors, behind = [], []
    for wanted in asked.outputs:
        tensor: dict[str, Any] = {"name": "logits"}
        if wanted.classes:
            named = [_classes(row, wanted.classes, model) for row in logits]
            tensor |= {"datatype": "BYTES", "shape": [len(named), wanted.classes]}
            texts = [text for row in named for text in row]
            if wanted.binary:
                encoded = [text.encode() for text in texts]
                data = b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
        else:
            tensor |= {"datatype": "FP32", "shape": list(logits.shape)}
            data = logits.astype("<f4").tobytes()
        if wanted.binary:
            behind.append(data)
            tensor["parameters"] = {"binary_data_size": len(data)}
        else:
            # A float32 written as a double is the same float32 when it is read.
            tensor["data"] = texts if wanted.classes else logits.ravel().tolist()
        tensors.append(tensor)
    answer: dict[str, Any] = {
        "model_name": model.name,
        "model_version": VERSION,
        "outputs": tensors,
    }
    if asked.id is not None:
        answer["id"] = asked.id
    text = as_json(answer)
    if not behind:
        return Response(text, media_type="application/json")
    return Response(
        text + b"".join(behind),
        media_type="application/octet-stream",
        headers={_HEADER_LENGTH: str(len(text))},
    )


def _classes(row: Logits, count: int, model: Model) -> list[str]:
    """Triton's way to name classes: value, index and label."""
    order = np.argsort(-row, kind="stable")[:count]
    return [f"{row[index]:f}:{index}:{model.card.labels[index]}" for index in order]


def _too_large(most_bytes: int) -> RequestError:
    return RequestError(
        "too_large",
        f"the body is larger than {most_bytes / 2**20:.4g} MiB, which is the most that is taken; "
        "send fewer clips, and the tensor behind the JSON, as binary data",
    )


def _bad(sentence: str) -> RequestError:
    return RequestError("bad_request", sentence)


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
