"""The same Classifier on many machines: an actor of Ray Data for each worker.

Every worker opens the artifact and reads the videos by the paths that were given, so both have to
lie where all machines see them. Ray starts a worker again that dies, and gives its videos to
another; rows come back to this process, which writes them.
"""

import contextlib
import dataclasses
import json
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stdeploy.backends.base import RuntimeOptions
from stdeploy.errors import BackendError
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.optional_packages import require
from stdeploy.video.decode_pool import DecodePool
from stdeploy.video.limits import Limits

LOCAL = "local"
_REACHABLE_SECONDS = 5.0
_VIDEOS_AT_ONCE = 8  # that a worker is given; what a worker that dies has to do again


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where to work, and with how much.

    Attributes:
        address: of a Ray cluster; "local" starts one on this machine.
        workers: each has the network once.
        gpus_per_worker: 0 for none; a fraction lets workers share one.
    """

    address: str
    workers: int = 2
    gpus_per_worker: float = 0.0


def classify_on_ray(
    videos: Iterable[Path],
    artifact: Path,
    cluster: ClusterOptions,
    options: ClassifyOptions,
    runtime_options: RuntimeOptions,
    *,
    top_k: int,
) -> Iterator[dict[str, Any]]:
    """Classify videos on a cluster.

    Args:
        videos: files that all workers can read.
        artifact: likewise.
        cluster: where, and how many workers.
        options: of the classifier in each worker.
        runtime_options: likewise.
        top_k: labels in a row.

    Yields:
        A row for each video, as `Prediction.to_record` makes it, or with "error"; in the order of
        the videos.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendError: the cluster cannot be reached, or its workers cannot run the artifact.
    """
    require("ray", extra="ray", purpose="working on a cluster")
    import ray
    import ray.data

    rows = [{"video": str(path), "path": str(path.absolute())} for path in videos]
    if not rows:
        return
    if cluster.address == LOCAL and runtime_options.threads is None:
        # Each worker's network would take all processors.
        each = max(1, (os.cpu_count() or 1) // cluster.workers)
        runtime_options = dataclasses.replace(runtime_options, threads=each)
    # Ray prints news of its workers to standard output, where rows go.
    with contextlib.redirect_stdout(sys.stderr), _connected(ray, cluster):
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        blocks = max(cluster.workers, -(-len(rows) // _VIDEOS_AT_ONCE))
        classified = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Worker,
            fn_constructor_args=(
                str(artifact.absolute()),
                options,
                runtime_options,
                top_k,
            ),
            batch_size=_VIDEOS_AT_ONCE,
            compute=ray.data.ActorPoolStrategy(size=cluster.workers),
            num_cpus=1,
            num_gpus=cluster.gpus_per_worker or None,
        )
        try:
            for row in classified.iter_rows():
                yield json.loads(row["record"])
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BackendError(f"the workers on Ray cannot go on: {reason}") from error


class _Worker:
    """What an actor holds: an opened artifact."""

    def __init__(
        self,
        artifact: str,
        options: ClassifyOptions,
        runtime_options: RuntimeOptions,
        top_k: int,
    ) -> None:
        # In processes of their own always: Ray would start a worker that a file brings down again
        # and again, and never come to an end.
        self._pool = DecodePool(options.decoding_jobs, Limits(), on_gpu=options.decoder == "nvdec")
        self._classifier = Classifier.open(
            Path(artifact),
            options=options,
            runtime_options=runtime_options,
            read=self._pool.read_clips,
        )
        self._top_k = top_k

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        paths = [Path(str(path)) for path in batch["path"]]
        records = []
        rows = self._classifier.classify_many(paths)
        for name, row in zip(batch["video"], rows, strict=True):
            if row.prediction is None:
                record: dict[str, Any] = {"error": str(row.error)}
            else:
                record = row.prediction.to_record(self._top_k)
            records.append(json.dumps({"video": str(name)} | record | {"video": str(name)}))
        return {"record": records}


@contextlib.contextmanager
def _connected(ray: Any, cluster: ClusterOptions) -> Iterator[None]:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    where: dict[str, Any] = {"address": cluster.address}
    _check_reachable(cluster.address)
    if cluster.address == LOCAL:
        where |= {"num_cpus": cluster.workers, "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise _unreachable(cluster.address, str(error).strip().splitlines()[0]) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        BackendError: nothing listens at an address like host:port or ray://host:port.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHABLE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, reason: str) -> BackendError:
    return BackendError(
        f"no Ray cluster answers at {address!r} ({reason}); give its address, or {LOCAL!r} to "
        "start one on this machine"
    )
