"""The runs of a grid: each is trained, measured and kept once."""

import dataclasses
import json
from pathlib import Path

from stdeploy.artifacts.files import whole_file
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.errors import SpecError
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.inference.evaluation import evaluate
from stdeploy.train.processes import Machine
from stdeploy.train.recipe import Recipe
from stdeploy.train.run_directory import STATE
from stdeploy.train.trainer import train

RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a grid.

    Attributes:
        recipe: all of its settings, the seed too.
        folder: what the run leaves, its checkpoint and its result.
    """

    recipe: Recipe
    folder: Path


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all runs of a grid have in common.

    Attributes:
        training: videos to train on.
        held_out: videos that the results are measured on.
        machine: devices of each run.
        views: clips averaged per video; None for as many as the recipe says.
    """

    training: LabelledVideos
    held_out: LabelledVideos
    machine: Machine
    views: int | None = None


def run(job: Job, setting: Setting) -> float:
    """Top-1 of one run, which is not made again if it is there and is gone on with if begun.

    Raises:
        SpecError: the folder holds the result of another recipe or of other videos.
    """
    done = job.folder / RESULT
    made_from = {
        "recipe": json.loads(job.recipe.model_dump_json()),
        "views": setting.views,
        "training": setting.training.digest(),
        "held_out": setting.held_out.digest(),
    }
    if done.is_file():
        content = json.loads(done.read_text())
        if any(content.get(name) != value for name, value in made_from.items()):
            raise SpecError(
                f"{str(job.folder)!r} holds a run with other settings or other videos; give "
                "another --output"
            )
        return float(content["top1"])
    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = job.folder / "last.pt"
    state = job.folder / STATE
    train(
        job.recipe,
        setting.training,
        checkpoint,
        run=job.folder,
        machine=setting.machine,
        resume=state.is_file(),
    )
    with Classifier.open(checkpoint, options=ClassifyOptions(views=setting.views)) as classifier:
        top1 = evaluate(classifier, setting.held_out).top1
    with whole_file(done) as temporary:
        temporary.write_text(json.dumps({"top1": top1, **made_from}) + "\n")
    state.unlink()  # twice the size of the network, and of no use any more
    return top1
