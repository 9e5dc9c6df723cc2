"""What it costs in accuracy to look back only, and to answer out of a longer video.

    python benchmarks/causal_accuracy.py WORK [--fights FOLDER] [--seeds 3] [--epochs N]
        [--only synthetic|fights] [-o docs/benchmarks/causal.md]

Trains the network of the recipe starter and that of starter-causal, with the same seeds, on the
starter's videos and on those of the Surveillance Camera Fight Dataset (FOLDER holds its videos and
its lists; 3 parts, each held out once). WORK keeps what is done: the program goes on after a break.

Each network then answers longer videos than it was trained on, in three ways, see `Answers`. The
synthetic ones show the action of a validation video in the middle of 16 s in which nothing moves;
those of fights are the held-out videos themselves, of which a clip is half.
"""

import argparse
import csv
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.datasets import synthetic
from stdeploy.fusion import fuse_model
from stdeploy.hardware import cpu_name
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import FrameNormalisation
from stdeploy.train.recipe import Recipe
from stdeploy.train.train_model import train_model
from stdeploy.video.clips import ClipRequest, read_clips

KINDS = ("ordinary", "causal")
SETS = ("synthetic", "fights")
LONG = 64  # frames that a stream averages over, if there are as many
PARTS = 3  # of the fights
SHORT_SIDE_PX = 72  # of the copies of the fights
# Of fights: clips of 8 frames, 2/15 s apart, of videos that take 2 s.
FIGHTS = (
    "clip.frame_stride=2",
    "clip.fps=15.0",
    "clip.short_side_px=56",
    "clip.crop_px=48",
    "optimisation.epochs=12",
    "optimisation.learning_rate=0.02",
)


@dataclasses.dataclass(frozen=True)
class Long:
    """A video that is longer than a clip.

    Attributes:
        path: of the file.
        label: its class.
        action_seconds: where the clip is that shows the action; None for the middle.
    """

    path: Path
    label: str
    action_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Answers:
    """Share of right answers of one network.

    Attributes:
        clips: to the validation videos, one clip of each, as `stdeploy evaluate` has it.
        windows: to a clip out of each longer video by itself.
        streamed: to the same frames, but the features are those of the whole video.
        streamed_long: likewise, averaged over LONG frames around them, or all that there are.
        videos: longer ones.
    """

    clips: float
    windows: float
    streamed: float
    streamed_long: float
    videos: int


def main() -> None:
    """Train what is not trained yet, measure, write the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--fights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="fewer, to try it out")
    parser.add_argument("--only", choices=SETS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in SETS if name == (arguments.only or name)]
    if arguments.fights is None and "fights" in wanted:
        wanted.remove("fights")
        print("without --fights: the synthetic videos alone", file=sys.stderr)
    fewer = () if arguments.epochs is None else (f"optimisation.epochs={arguments.epochs}",)
    for name in wanted:
        for seed in range(arguments.seeds if name == "synthetic" else min(PARTS, arguments.seeds)):
            for kind in KINDS:
                answers(arguments.work, arguments.fights, name, kind, seed, fewer)
    page = table(arguments.work, wanted)
    if arguments.output:
        arguments.output.write_text(page)
    print(page)


def answers(
    work: Path, fights: Path | None, name: str, kind: str, seed: int, settings: Sequence[str]
) -> Answers:
    """What one network answers; it is trained unless that is done already."""
    record = _record(work, name, kind, seed)
    if record.exists():
        return Answers(**json.loads(record.read_text()))
    recipe = Recipe.load(
        "starter-causal" if kind == "causal" else "starter",
        [
            *(FIGHTS if name == "fights" else ()),
            f"optimisation.seed={seed}",
            "optimisation.workers=0",
            *settings,
        ],
    )
    if name == "fights":
        assert fights is not None
        data, validation = _part(work, fights, seed)
    else:
        data, validation = work / "synthetic", None
        assert recipe.synthetic is not None
        synthetic.make_dataset(
            data,
            train=recipe.synthetic.train_videos,
            validation=recipe.synthetic.validation_videos,
            seed=recipe.synthetic.seed,
        )
    result = train_model(
        recipe,
        data,
        work / f"{record.stem}.pt",
        validation=validation,
        run=work / "runs" / record.stem,
        accelerator="cpu",
    )
    assert result is not None
    assert result.evaluation is not None
    model, card = load_model(result.path)
    videos = long_fights(validation) if validation else long_synthetic(work, recipe)
    right = measured(fuse_model(model).float(), card.clip, card.labels, videos)
    found = Answers(clips=result.evaluation.top1, **right)
    record.write_text(json.dumps(dataclasses.asdict(found), indent=1))
    print(f"{record.stem}: {found}", file=sys.stderr, flush=True)
    return found


def _record(work: Path, name: str, kind: str, seed: int) -> Path:
    return work / f"{name}-{kind}-{seed}.json"


def measured(
    model: ActionModel, clip: ClipSpec, labels: Sequence[str], videos: Sequence[Long]
) -> dict[str, float | int]:
    """The fields of `Answers` that are of longer videos.

    Args:
        model: fused.
        clip: that it was trained on.
        labels: of its classes.
        videos: to answer.
    """
    right = np.zeros(3)
    for video in videos:
        frames = all_frames(video.path, clip)
        start = (len(frames) - clip.num_frames) // 2
        if video.action_seconds is not None:
            start = round(video.action_seconds / clip.interval_seconds)
        start = min(max(start, 0), max(len(frames) - clip.num_frames, 0))
        end = min(start + clip.num_frames, len(frames))
        middle = (start + end) // 2
        first = min(max(middle - LONG // 2, 0), max(len(frames) - LONG, 0))
        streamed = features_of(model, clip, frames)
        averages = [
            features_of(model, clip, frames[start:end]).mean(dim=0),
            streamed[start:end].mean(dim=0),
            streamed[first : first + LONG].mean(dim=0),
        ]
        with torch.inference_mode():
            found = model.head.classifier(torch.stack(averages)).argmax(dim=1)
        right += (found == labels.index(video.label)).numpy()
    windows, one, many = (float(share) for share in right / len(videos))
    return {"windows": windows, "streamed": one, "streamed_long": many, "videos": len(videos)}


def all_frames(video: Path, clip: ClipSpec) -> NDArray[np.uint8]:
    """All frames of a video at the interval of a clip, uint8 (T, H, W, 3)."""
    chunks = read_clips(video, ClipRequest(clip=clip, chunk_frames=1000))
    return np.concatenate([np.asarray(chunk.frames)[0] for chunk in chunks])


def features_of(model: ActionModel, clip: ClipSpec, frames: NDArray[np.uint8]) -> torch.Tensor:
    """Features of frames that are given at once, averaged over space: (T, C)."""
    with torch.inference_mode():
        x = FrameNormalisation(clip)(torch.from_numpy(np.ascontiguousarray(frames))[None])
        return model.forward_features(x).mean(dim=(3, 4))[0].T


def long_synthetic(work: Path, recipe: Recipe) -> list[Long]:
    """The actions of the validation videos, each in the middle of LONG frames at rest and more."""
    assert recipe.synthetic is not None
    clip, made = recipe.clip_spec(), recipe.synthetic
    folder = work / "synthetic-long"
    folder.mkdir(exist_ok=True)
    videos = []
    for number in range(made.train_videos + 1, made.train_videos + made.validation_videos + 1):
        pair, backwards = (number - 1) // 2 % len(synthetic.REVERSED_PAIRS), number % 2 == 0
        rng = np.random.default_rng([made.seed, number])
        motion = synthetic.random_motion(pair, rng)
        action = motion.num_frames
        still = (LONG * clip.frame_stride - action) // 2 + clip.frame_stride
        total = action + 2 * still
        before, after = (still + share * (action - 1) for share in motion.rest)
        longer = dataclasses.replace(
            motion, num_frames=total, rest=(before / (total - 1), after / (total - 1))
        )
        path = folder / f"{number}.webm"
        if not path.exists():
            frames = list(synthetic.render(longer, rng))
            write_video(path, frames[::-1] if backwards else frames, synthetic.FPS)
        # A clip of the short video has its frames in the middle.
        middle = (total - 1) / synthetic.FPS / 2
        videos.append(
            Long(
                path,
                synthetic.REVERSED_PAIRS[pair][backwards],
                max(middle - clip.span_seconds / 2, 0.0),
            )
        )
    return videos


def long_fights(validation: Path) -> list[Long]:
    """The held-out videos of a list."""
    with validation.open(newline="") as file:
        return [Long(validation.parent / row["path"], row["label"]) for row in csv.DictReader(file)]


def _part(work: Path, fights: Path, number: int) -> tuple[Path, Path]:
    """Lists to train on and to hold out: every third video of a class is in one part.

    NOTE: not a third of them in a row. Videos of one source follow each other, and trained on the
    others, this network said the same of nearly all of them (48 % right).
    """
    rows = []
    for name in ("train.csv", "validation.csv"):
        with (fights / name).open(newline="") as file:
            rows += list(csv.DictReader(file))
    rows.sort(key=lambda row: row["path"])
    training: list[dict[str, str]] = []
    held_out: list[dict[str, str]] = []
    for label in sorted({row["label"] for row in rows}):
        of_label = [row for row in rows if row["label"] == label]
        for place, row in enumerate(of_label):
            (held_out if place % PARTS == number else training).append(row)
    folder = work / "fights"
    for row in rows:
        copy = (folder / row["path"]).with_suffix(".webm")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_video(copy, *_small(fights / row["path"]))
    lists = []
    for name, chosen in (("train", training), ("held-out", held_out)):
        path = folder / f"{name}-{number}.csv"
        lines = [f"{Path(row['path']).with_suffix('.webm')},{row['label']}" for row in chosen]
        path.write_text("\n".join(["path,label", *lines]) + "\n")
        lists.append(path)
    return lists[0], lists[1]


def _small(video: Path) -> tuple[list[NDArray[np.uint8]], float]:
    """The frames of a video, made small, BGR, and their rate: decoding it is most of the work."""
    reader = cv2.VideoCapture(str(video))
    rate = reader.get(cv2.CAP_PROP_FPS)
    frames = []
    while True:
        there, frame = reader.read()
        if not there:
            break
        factor = SHORT_SIDE_PX / min(frame.shape[:2])
        size = (round(frame.shape[1] * factor), round(frame.shape[0] * factor))
        frames.append(cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8))
    return frames, rate


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> None:
    """Write frames (H, W, 3), BGR, as the synthetic videos are written."""
    height, width = frames[0].shape[:2]
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*"VP80"), fps, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    unfinished.replace(path)


def table(work: Path, wanted: Sequence[str]) -> str:
    """What was measured, in Markdown."""
    return (
        "\n".join([_PREFACE.format(processor=cpu_name(), long=LONG), *_lines(work, wanted)]) + "\n"
    )


_PREFACE = """# Causal networks

`python benchmarks/causal_accuracy.py WORK --fights FOLDER`, on {processor}. Share of right
answers, in percent; "spread" is the standard deviation over seeds, or over parts.

The ordinary network is that of the recipe `starter` (I3D-ResNet-18, a quarter as wide, 1-1-3-3-5,
clips of 8 frames, trained from random weights), the causal one that of `starter-causal`: the same
data, seeds and settings. Each was measured on clips as it was trained, and on videos that are
longer than a clip:

- a clip by itself: 8 frames, cut out, as `stdeploy classify` does; beyond its ends the ordinary
  network sees zeros, and the causal one its first frame again and again;
- streamed, the same frames: the features of the whole video are computed at once and averaged over
  the same 8 frames, as `--timeline dense` does; the network was not trained for it;
- streamed, {long} frames: the same, averaged over {long} frames around them, or all there are."""

_TITLES = {
    "synthetic": "Synthetic videos, 10 classes",
    "fights": "Surveillance Camera Fight Dataset, 2 classes",
}
_ABOUT = {
    "synthetic": (
        "400 videos to train on, 100 to validate; a longer one shows the action of a validation "
        f"video in the middle of more than {LONG} frames (16 s), before and after which nothing "
        "moves. So most of "
        f"{LONG} frames say nothing about the class."
    ),
    "fights": (
        "245 videos of 2 s in 3 parts, each of which is held out once; every third video is in one "
        "part, so that a part has no source of its own. At 48 px and 12 epochs, far from what the "
        "data allows. The longer videos are the held-out ones, most of 15 sampled "
        "frames: the clip by itself is the 8 in the middle, and the last rows average all."
    ),
}
_MEASURED = {
    "clips": "clips, as trained",
    "windows": "longer video, a clip by itself",
    "streamed": "longer video, streamed, the same frames",
    "streamed_long": f"longer video, streamed, {LONG} frames",
}


def _lines(work: Path, wanted: Sequence[str]) -> Iterator[str]:
    for name in wanted:
        # Those that both networks have: the program may have been stopped in between.
        seeds = [s for s in range(100) if all(_record(work, name, k, s).exists() for k in KINDS)]
        if not seeds:
            continue
        one = "seed" if name == "synthetic" else "part"
        yield from ("", f"## {_TITLES[name]}", "", _ABOUT[name])
        if len(seeds) == 1:
            yield (
                f"**One {one} alone has been trained so far**: differences of some points between "
                "the networks say nothing yet."
            )
        yield ""
        heads = " | ".join(f"{one} {seed}" for seed in seeds)
        yield f"| network | measured on | mean | spread | {heads} |"
        yield "| --- | --- | ---: | ---: |" + " ---: |" * len(seeds)
        for kind in KINDS:
            found = [
                Answers(**json.loads(_record(work, name, kind, seed).read_text())) for seed in seeds
            ]
            for field, words in _MEASURED.items():
                shares = [100 * getattr(answered, field) for answered in found]
                spread = f"{statistics.stdev(shares):.1f}" if len(shares) > 1 else "-"
                each = " | ".join(f"{share:.1f}" for share in shares)
                yield f"| {kind} | {words} | {statistics.mean(shares):.1f} | {spread} | {each} |"


if __name__ == "__main__":
    main()
