"""The server on Ray Serve: the library's numbers, the server's errors, the library's health."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from stdeploy.backends.base import RuntimeOptions
from stdeploy.errors import ArtifactError
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.video.clips import ClipRequest

pytest.importorskip("ray.serve")
from stdeploy.serve import on_ray
from stdeploy.serve.admission import Place
from stdeploy.serve.on_ray import RayArguments, Replica
from stdeploy.serve.scheduling import Job
from stdeploy.serve.settings import ServeSettings

RECIPE = Path(__file__).parents[2] / "serve" / "ray.yaml"
ORT = {"backend": "onnxruntime", "threads": 1}

# Ray starts daemons and threads, so it lives in a process of its own.
ON_RAY = """
import json
import socket
import sys

import httpx
import ray
from ray import serve

from stdeploy.serve.on_ray import RayArguments, application

given = json.loads(sys.argv[1])
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
try:
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    arguments = RayArguments.model_validate(given["arguments"])
    serve.run(application(arguments), name="actions", route_prefix="/actions")
    answers = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/actions", timeout=60) as client:
        for request in given["requests"]:
            if "file" in request:
                with open(request.pop("file"), "rb") as file:
                    content = file.read()
                if request.pop("form", False):
                    request["files"] = {"file": ("video.mp4", content)}
                else:
                    request["content"] = content
            answer = client.request(**request)
            answers.append([answer.status_code, answer.headers.multi_items(), answer.text])
    with open(given["answers"], "w") as file:
        json.dump(answers, file)
finally:
    serve.shutdown()
    ray.shutdown()
"""


def settings_of(artifact: Path, **fields: Any) -> dict[str, Any]:
    return RayArguments(model=artifact, **ORT | fields).of_replica


def test_replicas_give_the_numbers_of_the_library_and_the_errors_of_the_server(
    artifact: Path, video: Path, tmp_path: Path
) -> None:
    uploads = tmp_path / "uploads"
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "half.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    (tmp_path / "none.mp4").write_bytes(b"no video at all\n" * 50)
    (tmp_path / "large.mp4").write_bytes(video.read_bytes() + bytes(2_000_000))
    key = {"Authorization": "Bearer secret"}
    raw = key | {"Content-Type": "video/mp4"}
    classify = {"method": "POST", "url": "/v1/classify"}
    asked = [
        classify | {"file": str(video), "headers": raw, "params": {"views": 2, "top_k": 5}},
        classify | {"file": str(video), "headers": key, "form": True},
        classify | {"file": str(tmp_path / "half.mp4"), "headers": raw},
        classify | {"file": str(tmp_path / "none.mp4"), "headers": raw},
        classify | {"file": str(tmp_path / "large.mp4"), "headers": raw},
        classify | {"file": str(video), "headers": {"Content-Type": "video/mp4"}},
        classify | {"file": str(video), "headers": raw, "params": {"views": 65}},
        {"method": "GET", "url": "/v1/models", "headers": key | {"X-Request-ID": "mine"}},
        {"method": "GET", "url": "/metrics"},
    ]
    arguments = {
        "model": str(artifact),
        "backend": "onnxruntime",
        "replicas": "2",  # text, as `serve run` gives it
        "cpus_per_replica": 1,
        "max_body_bytes": 1_000_000,
        "upload_folder": str(uploads),
        "api_key_file": str(tmp_path / "key"),
    }
    answers = tmp_path / "answers.json"
    given = {"arguments": arguments, "requests": asked, "answers": str(answers)}
    result = subprocess.run(
        [sys.executable, "-c", ON_RAY, json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    two, one, *refused, models, metrics = json.loads(answers.read_text())

    with Classifier.open(artifact, runtime_options=RuntimeOptions(**ORT)) as classifier:
        expected = classifier.classify(video).to_record(5)
    options = ClassifyOptions(views=2)
    with Classifier.open(
        artifact, options=options, runtime_options=RuntimeOptions(**ORT)
    ) as classifier:
        expected_two = classifier.classify(video).to_record(5)
    for (status, _, text), record in ((one, expected), (two, expected_two)):
        assert status == 200, text
        answer = json.loads(text)
        for name in ("predictions", "views", "view_spans_seconds", "device"):
            assert answer[name] == record[name]
        assert answer["model"] == {"name": "tiny", "sha256": record["artifact_sha256"]}
        assert answer["timeline"] is None
        assert set(answer["timings_ms"]) == {"upload", "queue", "decode", "infer", "total"}

    codes = [(status, json.loads(text)["code"]) for status, _, text in refused]
    assert codes == [
        (422, "undecodable"),
        (415, "unsupported_type"),
        (413, "too_large"),
        (401, "unauthorized"),
        (422, "invalid"),
    ]
    for _, headers, text in (two, one, *refused):
        ids = [value for name, value in headers if name == "x-request-id"]
        assert ids == [json.loads(text)["request_id"]]
    assert models[0] == 200
    assert ["x-request-id", "mine"] in models[1]
    assert metrics[0] == 404  # of one replica by chance they would mislead
    assert list(uploads.iterdir()) == []


def test_a_replica_whose_network_has_failed_says_so(artifact: Path, video: Path) -> None:
    replica = Replica(settings_of(artifact))
    try:
        service = replica._health.service
        assert service is not None
        replica.check_health()
        (clips,) = service._pool.read_clips(video, ClipRequest(clip=service.model.card.clip))
        # What the runtime cannot run is refused before; only a fault inside it comes this far.
        (failed,) = service.runner.submit(clips.frames[:, :, :16], Job(Place("test"), float("inf")))
        assert failed.exception(timeout=30) is not None
        with pytest.raises(RuntimeError, match=r"the network failed \(ArtifactError\)"):
            replica.check_health()
    finally:
        replica.__del__()


def test_a_replica_that_cannot_open_leaves_no_folder(tmp_path: Path, artifact: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(artifact.read_bytes()[:-1000])
    with pytest.raises(ArtifactError):
        Replica(settings_of(tmp_path / "broken.onnx", upload_folder=tmp_path / "uploads"))
    assert list(tmp_path.glob("uploads/*")) == []


def test_a_replica_takes_its_own_processors_only() -> None:
    given = RayArguments(model="m.onnx", cpus_per_replica=3.5).of_replica
    assert (given["threads"], given["decode_workers"]) == (3, 3)
    given = RayArguments(model="m.onnx", cpus_per_replica=0.5, threads=2).of_replica
    assert (given["threads"], given["decode_workers"]) == (2, 2)
    given = RayArguments(model="m.onnx", gpus_per_replica=0.5, decode_workers=4).of_replica
    assert (given["threads"], given["decode_workers"]) == (None, 4)
    assert ServeSettings(**given).model_dump() == given


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"model": "m.onnx", "port": 80}, {}, "port: Ray listens"),
        ({"model": "m.onnx"}, {"STDEPLOY_SERVE_HOST": "0.0.0.0"}, "host: Ray listens"),
        ({}, {}, "name the artifact"),
        ({"model": "m.onnx", "replica": 2}, {}, "replica\n.*[Ee]xtra"),
        ({"model": "m.onnx", "replicas": 0}, {}, "greater than or equal to 1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    arguments: dict[str, Any],
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=message):
        RayArguments.model_validate(arguments)


def test_environment_is_read_where_the_application_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STDEPLOY_SERVE_MODEL", "/models/a.onnx")
    monkeypatch.setenv("STDEPLOY_SERVE_REPLICAS", "3")
    monkeypatch.setenv("STDEPLOY_SERVE_VIEWS", "4")
    arguments = RayArguments.model_validate({"views": 2})
    assert (arguments.replicas, arguments.views) == (3, 2)
    given = arguments.of_replica
    # And not where a replica runs.
    monkeypatch.setenv("STDEPLOY_SERVE_MODEL", "/elsewhere.onnx")
    assert ServeSettings(**given).model == Path("/models/a.onnx")


def test_the_recipe_is_what_ray_and_the_application_take() -> None:
    from ray.serve.schema import ServeDeploySchema

    recipe = ServeDeploySchema.model_validate(yaml.safe_load(RECIPE.read_text()))
    (application,) = recipe.applications
    module, _, name = application.import_path.partition(":")
    assert (module, getattr(on_ray, name)) == (on_ray.__name__, on_ray.application)
    arguments = RayArguments.model_validate(application.args)
    bound = on_ray.application(arguments)
    deployment = bound._bound_deployment
    assert (deployment.num_replicas, deployment.max_ongoing_requests) == (2, 8)
    assert deployment.max_queued_requests == 64
    assert deployment.ray_actor_options["num_cpus"] == 2
    assert recipe.http_options.host == "127.0.0.1"
