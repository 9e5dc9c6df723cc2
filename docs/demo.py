"""`make demo`: the whole chain on real weights and a real video, then on a model of our own.

Every command is printed before it runs, so that it can be typed again in ./demo.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

PROGRAM = Path(sys.executable).with_name("stdeploy")
FOLDER = Path("demo")
START = time.monotonic()
_INTERRUPTED = 130  # exit status after Ctrl-C


def headline(text: str) -> None:
    """Print a headline with the time that has passed."""
    print(f"\n\033[1m{text}\033[0m  [{time.monotonic() - START:.0f} s]", flush=True)


def run(command: str) -> None:
    """Print a stdeploy command and run it in the demo folder; stop the demo if it fails."""
    print(f"\n$ stdeploy {command}", flush=True)
    output_of(command, show=True)


def output_of(command: str, *, show: bool) -> str:
    """What a stdeploy command writes to standard output; "" where that is shown.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    arguments = [str(PROGRAM), *command.split()]
    out = None if show else subprocess.PIPE
    with subprocess.Popen(arguments, cwd=FOLDER, stdout=out, text=True) as process:
        while True:
            try:
                text, _ = process.communicate()
                break
            except KeyboardInterrupt:
                continue  # the command got it too, and saves what it has
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return text or ""


def evaluate(artifact: str) -> dict[str, float]:
    """Print and run `stdeploy evaluate --json` on the starter's videos; its JSON is not shown."""
    command = f"evaluate {artifact} --data starter-data --json"
    print(f"\n$ stdeploy {command}", flush=True)
    return json.loads(output_of(command, show=False))


def accuracies(results: dict[str, dict[str, float]]) -> Table:
    """What each stage of a model measures, side by side."""
    table = Table()
    table.add_column("")
    for column in ("top-1", "top-5", "mean of the classes", "videos"):
        table.add_column(column, justify="right")
    for stage, found in results.items():
        rates = (found["top1"], found["top5"], found["mean_class_accuracy"])
        table.add_row(stage, *(f"{rate:.1%}" for rate in rates), f"{found['videos']:.0f}")
    return table


def kinetics() -> None:
    """Real weights, a real video."""
    headline("1  Real weights (Kinetics-400), a real video: a man flips off a wall")
    run("pull kinetics400-i3d")
    run("pull sample-video")
    run("fuse kinetics400-i3d.pt")
    run("export kinetics400-i3d.fused.safetensors")
    run("classify sample.mp4 --model kinetics400-i3d.onnx")


def starter() -> None:
    """A model with temporal branches, trained here."""
    headline("2  A model of our own: actions that differ in the order of time")
    run("train --recipe starter")
    run("fuse starter.pt")
    run("export starter.fused.safetensors")
    videos = FOLDER / "starter-data" / "20bn-something-something-v2"
    first = min(int(entry["id"]) for entry in _validation())
    names = [str((videos / f"{first + i}.webm").relative_to(FOLDER)) for i in range(4)]
    run(f"classify {' '.join(names)} --model starter.onnx --top-k 2")
    headline("Is it still the same model?")
    results = {
        "before fusing": evaluate("starter.pt"),
        "after fusing": evaluate("starter.fused.safetensors"),
        "exported": evaluate("starter.onnx"),
    }
    print()
    Console().print(accuracies(results))
    if len({result["top1"] for result in results.values()}) > 1:
        sys.exit("the accuracies differ: that is a fault of stdeploy, please report it")
    print("  the same in all three")
    if results["exported"]["top1"] < 0.8:
        sys.exit("but under 80 %: that is a fault of the recipe, please report it")


def _validation() -> list[dict[str, str]]:
    entries: list[dict[str, str]] = json.loads(
        (FOLDER / "starter-data" / "validation.json").read_text()
    )
    return entries


def main() -> None:
    """Run the demo."""
    FOLDER.mkdir(exist_ok=True)
    try:
        kinetics()
        starter()
    except subprocess.CalledProcessError as error:
        what = f"{Path(error.cmd[0]).name} {error.cmd[1]}"
        if error.returncode == _INTERRUPTED:
            print(f"\nthe demo was stopped in {what}; make demo begins anew", file=sys.stderr)
            sys.exit(_INTERRUPTED)
        sys.exit(f"\nthe demo stopped: {what} failed")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    headline("Done")
    print(
        f"The largest process took {peak:.1f} GiB. All files lie in ./{FOLDER}. Type next:\n\n"
        "  source .venv/bin/activate\n"
        "  cd demo\n"
        "  stdeploy classify YOUR_VIDEO.mp4 --model kinetics400-i3d.onnx\n"
        "  stdeploy card kinetics400-i3d.onnx\n"
        "  stdeploy --help"
    )


if __name__ == "__main__":
    main()
