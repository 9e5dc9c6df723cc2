"""How busy processors and GPU are while something runs, of the whole machine."""

import contextlib
import dataclasses
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_QUERY = "--query-gpu=utilization.gpu,utilization.decoder"
_EVERY_MS = 100


@dataclasses.dataclass
class Usage:
    """What was seen.

    Attributes:
        seconds: that passed.
        cores: processors that were busy on the average.
        gpu_percent: of the time in which the GPU computed; None where nothing tells.
        decoder_percent: likewise, of its decoders.
    """

    seconds: float = 0.0
    cores: float = 0.0
    gpu_percent: float | None = None
    decoder_percent: float | None = None

    def __str__(self) -> str:
        text = f"{self.cores:.1f} processors busy"
        if self.gpu_percent is None:
            return f"{text}, use of the GPU unknown"
        return f"{text}, GPU {self.gpu_percent:.0f} %, its decoders {self.decoder_percent:.0f} %"


@contextlib.contextmanager
def watched(usage: Usage) -> Iterator[None]:
    """Look on; `usage` is filled at the end."""
    with _nvidia_smi() as sampling:
        start, busy = time.monotonic(), _busy_seconds()
        yield
        usage.seconds = time.monotonic() - start
        usage.cores = (_busy_seconds() - busy) / usage.seconds
        if sampling is not None:
            sampling.terminate()
            lines, _ = sampling.communicate(timeout=10)
            rows = [line.split(",") for line in lines.splitlines() if line.count(",") == 1]
            rows = [row for row in rows if all(part.strip().isdigit() for part in row)]
            if rows:
                usage.gpu_percent = statistics.fmean(int(row[0]) for row in rows)
                usage.decoder_percent = statistics.fmean(int(row[1]) for row in rows)


@contextlib.contextmanager
def _nvidia_smi() -> Iterator["subprocess.Popen[str] | None"]:
    if shutil.which("nvidia-smi") is None:
        yield None
        return
    command = ["nvidia-smi", "--id=0", _QUERY, "--format=csv,noheader,nounits"]
    with subprocess.Popen(
        [*command, f"--loop-ms={_EVERY_MS}"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _busy_seconds() -> float:
    """Of all processors together, since the machine started."""
    numbers = [int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, waiting = numbers[3:5]
    return (sum(numbers) - idle - waiting) / os.sysconf("SC_CLK_TCK")
