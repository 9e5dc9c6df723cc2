"""The server as an application of Ray Serve: the same routes, in replicas on many machines.

    serve run stdeploy.serve.on_ray:application model=/models/model.onnx replicas=4

Ray listens, queues and starts replicas again; each replica holds the network once and answers
like `stdeploy serve`, so that both give the same numbers and the same errors. Metrics and probes
are Ray's.
"""

import contextlib
import os
from typing import Any, Self

from pydantic import Field, model_validator
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stdeploy.optional_packages import require
from stdeploy.serve.request_gate import RequestGate
from stdeploy.serve.server import application as asgi_application
from stdeploy.serve.service import model_of, open_service
from stdeploy.serve.settings import ENV_PREFIX, ServeSettings
from stdeploy.serve.uploads import UploadFolder
from stdeploy.video.limits import give_back_large_arrays

DEPLOYMENT = "videos"
_OF_RAY = {  # settings of `stdeploy serve` that Ray has its own of
    "forwarded_allow_ips",
    "header_seconds",
    "host",
    "keep_alive_seconds",
    "log_format",
    "log_level",
    "max_connections",
    "max_header_bytes",
    "metrics_port",
    "port",
    "tls_certificate",
    "tls_key",
}
_HEALTH_SECONDS = 5.0
_HEALTH_TIMEOUT_SECONDS = 30.0


class RayArguments(ServeSettings):
    """What the application can be told: settings of `stdeploy serve`, and how many replicas.

    They are keys of `args` in Ray's configuration, arguments of `serve run`, or variables
    STDEPLOY_SERVE_<NAME> of the process that builds the application. The model has to lie at the
    same path on every machine.
    """

    replicas: int = Field(1, ge=1, description="Each holds the network once.")
    cpus_per_replica: float = Field(
        1.0, gt=0, description="Unless they are set: threads, and videos decoded at once."
    )
    gpus_per_replica: float = Field(0.0, ge=0, description="A fraction lets replicas share one.")
    max_ongoing_requests: int = Field(
        8, ge=1, description="In one replica; `max_requests` more wait with Ray, others get a 503."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        variables = {n: v for n, v in os.environ.items() if n.startswith(ENV_PREFIX) and v}
        return {n.removeprefix(ENV_PREFIX).lower(): v for n, v in variables.items()} | given

    @model_validator(mode="after")
    def _for_ray(self) -> Self:
        if of_ray := sorted(self.model_fields_set & _OF_RAY):
            raise ValueError(
                f"{', '.join(of_ray)}: Ray listens and logs; see http_options and logging_config "
                "of its configuration"
            )
        if self.model is None:
            raise ValueError("model: name the artifact, at a path that all machines have")
        return self

    @property
    def of_replica(self) -> dict[str, Any]:
        """Settings of each replica, complete, so that its own environment does not matter."""
        processors = max(1, int(self.cpus_per_replica))
        shared = {name: getattr(self, name) for name in ServeSettings.model_fields}
        if self.threads is None and self.gpus_per_replica == 0:
            shared["threads"] = processors  # else each network takes all of the machine
        if self.decode_workers is None:
            shared["decode_workers"] = max(2, processors)
        return shared


def application(args: RayArguments) -> Any:
    """Build the application: `import_path: stdeploy.serve.on_ray:application`.

    Raises:
        MissingExtraError: Ray Serve is not installed.
    """
    serve = require("ray.serve", extra="ray", purpose="serving on a cluster")
    deployment = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        num_replicas=args.replicas,
        max_ongoing_requests=args.max_ongoing_requests,
        max_queued_requests=args.max_requests,
        ray_actor_options={
            "num_cpus": args.cpus_per_replica,
            "num_gpus": args.gpus_per_replica,
        },
        health_check_period_s=_HEALTH_SECONDS,
        health_check_timeout_s=_HEALTH_TIMEOUT_SECONDS,
        graceful_shutdown_timeout_s=args.drain_seconds,
    )
    return deployment.bind(args.of_replica)


class Replica:
    """One copy of the server, as Ray calls it.

    Args:
        settings: all fields of `ServeSettings`.

    Raises:
        ArtifactError: the artifact cannot be used.
        BackendError: what runs it is not there.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._held = contextlib.ExitStack()
        with contextlib.ExitStack() as held:
            self._open(ServeSettings(**settings), held)
            self._held = held.pop_all()

    async def __call__(self, _request: Request) -> Response:
        """Answer a request."""
        return _Answer(self._app)

    def check_health(self) -> None:
        """Tell Ray, which starts a new replica then, that this one cannot answer any more.

        Raises:
            RuntimeError: the network has failed, or hangs.
        """
        if self._health.failure is not None:
            raise RuntimeError(self._health.failure)

    def __del__(self) -> None:
        """Ray calls this when a replica has drained."""
        self._held.close()

    def _open(self, settings: ServeSettings, held: contextlib.ExitStack) -> None:
        artifact = settings.model
        assert artifact is not None
        give_back_large_arrays()
        gate = RequestGate(settings, held.enter_context(UploadFolder(settings.upload_folder)))
        service = open_service(settings, artifact, model_of(artifact), gate.metrics)
        held.callback(service.runner.close)
        held.callback(service.close)
        self._health = gate.health
        self._health.opened(service)
        self._app = asgi_application(gate, api_key=settings.key(), own_metrics=False)


class _Answer(Response):
    """What an application answers, piece by piece: Ray sends any response by calling it.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Ray has given the request its id, and adds it to the answer itself.
                del MutableHeaders(scope=message)["X-Request-ID"]
            await send(message)

        # Below a route_prefix the application is to find its own routes, and ask for its key.
        root = scope.get("root_path", "")
        inside = {"path": scope["path"].removeprefix(root), "root_path": ""}
        await self._app({**scope, **inside}, receive, send_without_id)
