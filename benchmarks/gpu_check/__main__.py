"""All that only a GPU can show, in a few minutes: tests, benchmarks, training, serving.

    make gpu-check                 on a host with an NVIDIA GPU
    make gpu-check MINUTES=4       stop in time; the next call goes on with what is missing
    make gpu-check REHEARSAL=1     every stage with tiny networks on a CPU, into build/

It needs no network and no build: Python with torch for CUDA and, as far as they are there, the
packages of `pip install '.[export,bench,gpu,serve,train,dev]'`. Stages (plan.py) run in order of
worth, each in a process with a limit of its own, and the results, <gpu>.json and <gpu>.md, are
written anew when one ends. What is done for these sources on such a GPU with these versions is not
done again; remove the .json to begin anew. The exit status is 1 if anything failed, and 4 if
something is still missing.
"""

import argparse
import contextlib
import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

try:
    from plan import REHEARSAL_FACTOR, SECONDS_IN_ALL, STAGES, Stage
    from results import CUT_OFF, FAILED, PASSED, ROOT, Outcome, Results

    from stdeploy.doctor import versions
    from stdeploy.hardware import cpu_name, driver_cuda_version, gpus
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is not installed; install or bring it, see docs/how-to/gpu-host.md")

BUILD = ROOT / "build" / "gpu-check"
LOG_LINES = 40
MISSING_STATUS = 4


def main() -> int:
    """Run what is missing, as long as there is time, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearsal", action="store_true")
    parser.add_argument("--minutes", type=float, default=SECONDS_IN_ALL / 60)
    parser.add_argument("--results", type=Path, help="Folder. Default: docs/benchmarks/gpu.")
    arguments = parser.parse_args()
    if not gpus() and not arguments.rehearsal:
        print(
            "no NVIDIA GPU here; make gpu-check is for hosts with one, and make gpu-check "
            "REHEARSAL=1 runs it with tiny networks on a CPU",
            file=sys.stderr,
        )
        return 3
    results = _results(arguments.results, rehearsal=arguments.rehearsal)
    work = results.path.parent / "work" if arguments.rehearsal else BUILD
    begun = time.monotonic()
    for stage in STAGES:
        if results.done(stage.name):
            print(f"{stage.name}: done before, {results.outcomes[stage.name].status}", flush=True)
            continue
        limit = stage.seconds * (REHEARSAL_FACTOR if arguments.rehearsal else 1)
        left = arguments.minutes * 60 - (time.monotonic() - begun)
        if left < limit and not arguments.rehearsal:
            print(f"{stage.name}: left for the next call, {left:.0f} s are left", flush=True)
            continue
        before = results.outcomes.get(stage.name, Outcome())
        outcome = run(stage, before, limit, work, rehearsal=arguments.rehearsal)
        results.keep(stage.name, outcome)
        _say(stage.name, outcome)
    print(f"{time.monotonic() - begun:.0f} s; written: {results.path} and .md")
    missing = [stage.name for stage in STAGES if not results.done(stage.name)]
    if missing:
        print(f"still missing: {', '.join(missing)}; the same command goes on")
    failed = [name for name, outcome in results.outcomes.items() if outcome.status == FAILED]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else MISSING_STATUS if missing else 0


def run(stage: Stage, before: Outcome, limit: float, work: Path, *, rehearsal: bool) -> Outcome:
    """Run a stage in a process of its own; what it has found if its time runs out.

    Args:
        stage: which.
        before: what an earlier call found that did not come to the end.
        limit: in seconds.
        work: folder for its log, and for artifacts that later stages take too.
        rehearsal: on a CPU.
    """
    work.mkdir(parents=True, exist_ok=True)
    found, log = work / f"{stage.name}.json", work / f"{stage.name}.log"
    before.write(found)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment["STDEPLOY_REHEARSE_GPU" if rehearsal else "STDEPLOY_REQUIRE_GPU"] = "1"
    if rehearsal:  # several threads of torch wait for each other where others work too
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    begun, start = datetime.datetime.now(datetime.UTC), time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, HERE / "stage.py", stage.name, found, str(os.getpid())],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it, and what it has started
            process.wait()
    outcome = Outcome.read(found)
    outcome.begun, outcome.seconds = f"{begun:%Y-%m-%dT%H:%M:%SZ}", time.monotonic() - start
    failed = status or any(one.status == FAILED for one in outcome.findings)
    outcome.status = CUT_OFF if status is None else FAILED if failed else PASSED
    if outcome.status != PASSED:
        outcome.log = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return outcome


def _say(name: str, outcome: Outcome) -> None:
    print(f"{name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
    for found in outcome.findings:
        if found.said or found.status != PASSED:
            told = "" if found.status == PASSED else f" {found.status}"
            print(f"  {found.name}{told}: {found.said}", flush=True)
    if outcome.status != PASSED:
        print("\n".join(f"  | {line}" for line in outcome.log), flush=True)


def _results(folder: Path | None, *, rehearsal: bool) -> Results:
    machine: dict[str, str] = {**versions()}
    if rehearsal:
        machine["processor"] = cpu_name()
        return Results(folder or BUILD / "rehearsal", "rehearsal", machine, "A rehearsal on a CPU")
    driver = driver_cuda_version() or (0, 0)
    machine |= {"gpu": gpus()[0].name, "driver for CUDA": "{}.{}".format(*driver)}
    return Results(
        folder or ROOT / "docs" / "benchmarks" / "gpu",
        gpus()[0].slug,
        machine,
        f"On one {gpus()[0].name}",
    )


if __name__ == "__main__":
    sys.exit(main())
