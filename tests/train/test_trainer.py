"""A short real run: does it learn, is it repeatable, does its checkpoint go through the chain?"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.utils.data import DataLoader

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample
from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.errors import ArtifactError, BackendError, DatasetError, TrainingError
from stdeploy.fusion import filters_of
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.inference.evaluation import evaluate
from stdeploy.inference.prediction import average_views
from stdeploy.models.checkpoint import load_model
from stdeploy.models.registry import build
from stdeploy.train.augment import Augmentation
from stdeploy.train.clips import ShuffledKeys, TrainingClips, collate
from stdeploy.train.filter_shares import filter_shares, read_shares
from stdeploy.train.optimisation import check_norms, learning_rate_factor
from stdeploy.train.processes import Machine
from stdeploy.train.progress import Report, RunState
from stdeploy.train.recipe import Recipe, Start
from stdeploy.train.run_directory import RunFolder, read_evaluation, write_evaluation
from stdeploy.train.trainer import train
from tests.helpers.models import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=40, validation=10, seed=1)
    return folder


def small_recipe(**changes: object) -> Recipe:
    fields = Recipe.load("starter").model_dump()
    fields["model"]["width"] = 0.125
    fields["optimisation"].update({"epochs": 2, "batch_size": 8, "workers": 0, **changes})
    return Recipe.parse(fields)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def with_start(recipe: Recipe, **fields: object) -> Recipe:
    return Recipe.parse({**recipe.model_dump(), "start": fields})


def test_a_run_is_repeatable_and_its_loss_falls(folder: Path, tmp_path: Path) -> None:
    data = read_something(folder, "train")
    recipe = small_recipe(epochs=5, warmup_epochs=1.0)
    reports: list[Report] = []
    card = train(recipe, data, tmp_path / "a.pt", run=tmp_path / "a", report=reports.append)
    assert [(r.epoch, r.step) for r in reports] == [
        (e, s) for e in range(1, 6) for s in range(1, 6)
    ]
    ends = [report for report in reports if report.step == report.steps]
    assert ends[-1].loss < 0.95 * ends[0].loss
    assert read_card(tmp_path / "a.pt") == card
    assert card is not None
    assert card.labels == data.labels
    train(recipe, data, tmp_path / "b.pt", run=tmp_path / "b")
    first, second = (load_model(tmp_path / name)[0].state_dict() for name in ("a.pt", "b.pt"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_folder_of_a_run_holds_what_was_done(folder: Path, tmp_path: Path) -> None:
    data, held_out = (read_something(folder, split) for split in ("train", "validation"))
    recipe = small_recipe()
    run = tmp_path / "run"
    card = train(recipe, data, tmp_path / "a.pt", run=run, validation=held_out)
    assert Recipe.parse(json.loads((run / "recipe.json").read_text())) == recipe
    assert json.loads((run / "environment.json").read_text())["versions"]["torch"]
    assert read_card(run / "best.pt").metrics.keys() == {"validation_top1", "validation_top5"}
    assert json.loads((run / "card.json").read_text()) == json.loads(card.to_json())
    losses, metrics = rows_of(run / "losses.csv"), rows_of(run / "metrics.csv")
    assert [int(row["step"]) for row in losses] == list(range(1, 11))
    for epoch, row in enumerate(metrics):
        mean = sum(float(r["loss"]) for r in losses[5 * epoch : 5 * epoch + 5]) / 5
        assert float(row["loss"]) == pytest.approx(mean)
        assert 0 <= float(row["validation_top1"]) <= float(row["validation_top5"]) <= 1
        assert 0 <= float(row["wait_share"]) <= 1
    assert float(metrics[-1]["validation_top1"]) == card.metrics["validation_top1"]
    assert (run / "curve.png").stat().st_size > 1000
    assert any(path.name.startswith("events.out") for path in run.iterdir())
    assert "finished" in (run / "log.txt").read_text()
    with pytest.raises(TrainingError, match=r"holds a run already; go on with --resume"):
        train(recipe, data, tmp_path / "a.pt", run=run)


def test_validation_reports_batch_by_batch(folder: Path, tmp_path: Path) -> None:
    data, held_out = (read_something(folder, split) for split in ("train", "validation"))
    reports: list[Report] = []
    train(
        small_recipe(epochs=2, batch_size=4),
        LabelledVideos(data.labels, data.samples[:8], data.reverse),
        tmp_path / "a.pt",
        run=tmp_path / "a",
        validation=held_out,
        report=reports.append,
    )
    assert [(r.phase, r.epoch, r.step, r.seen) for r in reports] == [
        (phase, epoch, step, seen)
        for epoch in (1, 2)
        for phase, step, seen in (
            ("training", 1, 0),
            ("validating", 2, 0),
            ("validating", 2, 4),
            ("validating", 2, 8),
            ("finished", 2, 10),
        )
    ]
    assert [r.validation is None for r in reports] == [True, True, True, True, False] * 2
    done = [report.done for report in reports]
    assert done == sorted(set(done))
    assert done[-1] == 1


def test_validation_agrees_with_evaluate(folder: Path, tmp_path: Path) -> None:
    data, held_out = (read_something(folder, split) for split in ("train", "validation"))
    card = train(
        small_recipe(epochs=1), data, tmp_path / "a.pt", run=tmp_path / "a", validation=held_out
    )
    with Classifier.open(tmp_path / "a.pt", options=ClassifyOptions(views=1)) as classifier:
        result = evaluate(classifier, held_out)
    assert card is not None
    assert card.metrics == pytest.approx(
        {"validation_top1": result.top1, "validation_top5": result.top5}
    )


def test_clips_do_not_depend_on_the_number_of_workers(folder: Path) -> None:
    data, recipe = read_something(folder, "train"), small_recipe()
    moving = Augmentation(frame_strides=(1, 2, 3, 4), ego_motion_sigma_px=2.0, flip=True)
    clips = TrainingClips(data, recipe.clip_spec(), moving, seed=0)
    batches = []
    for workers in (0, 2):
        keys = ShuffledKeys(len(data.samples), seed=0, batch_size=8)
        loader = DataLoader(
            clips, batch_size=8, sampler=keys, num_workers=workers, collate_fn=collate
        )
        batches.append(list(loader))
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.labels, other.labels)
    assert one.frames.dtype == torch.uint8
    assert tuple(one.frames.shape) == (8, 8, 56, 56, 3)


def test_a_process_that_decodes_outlasts_long_steps_when_all_are_told_to_stop() -> None:
    """Ctrl-C reaches every process of a terminal, and a step may last minutes."""
    script = (
        "import os, signal\n"
        "from stdeploy.train.clips import begin_worker\n"
        "begin_worker(0)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print(signal.getitimer(signal.ITIMER_REAL)[0])\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(signal.getitimer(signal.ITIMER_REAL)[0])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    after_int, after_term = map(float, result.stdout.split())
    assert after_int == 0  # nothing will end it
    assert after_term > 1500


def test_epochs_have_other_orders_and_other_clips(folder: Path) -> None:
    data = read_something(folder, "train")
    keys = ShuffledKeys(len(data.samples), seed=0)
    first = list(keys)
    keys.epoch = 1
    assert sorted(number for _, number in first) == sorted(number for _, number in keys)
    assert [number for _, number in first] != [number for _, number in keys]
    clips = TrainingClips(data, small_recipe().clip_spec(), Augmentation(), seed=0)
    assert not torch.equal(clips[(0, 5)].frames, clips[(1, 5)].frames)


def test_processes_share_the_steps_of_one() -> None:
    whole = list(ShuffledKeys(27, seed=3, batch_size=8))
    halves = [
        list(ShuffledKeys(27, seed=3, batch_size=4, rank=rank, world_size=2)) for rank in (0, 1)
    ]
    assert len(whole) == 24
    for step in range(3):
        together = [key for half in halves for key in half[4 * step : 4 * step + 4]]
        assert together == whole[8 * step : 8 * step + 8]
    rest = ShuffledKeys(27, seed=3, batch_size=8)
    rest.skip = 2
    assert list(rest) == whole[16:]
    assert len(rest) == 8


def test_mirrored_clips_get_the_label_of_the_other_direction(folder: Path) -> None:
    data = read_something(folder, "train")
    clip = small_recipe().clip_spec()
    plain = TrainingClips(data, clip, Augmentation(), seed=0)
    mirrored = TrainingClips(data, clip, Augmentation(flip=True), seed=0)
    swapped = {0: 1, 1: 0, 6: 7, 7: 6}  # left and right, clockwise and counter-clockwise
    kinds = set()
    for number in range(40):
        one, other = plain[(0, number)], mirrored[(0, number)]
        if torch.equal(one.frames, other.frames):
            assert other.label == one.label
        else:
            assert torch.equal(one.frames.flip(2), other.frames)
            assert other.label == swapped.get(one.label, one.label)
            kinds.add(one.label)
    assert kinds >= {0, 1}


def test_learning_rate_rises_then_falls_to_zero() -> None:
    how = small_recipe(epochs=10, warmup_epochs=2.0).optimisation
    factors = [learning_rate_factor(step, 5, how) for step in range(50)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[30] == pytest.approx(0.5)
    assert learning_rate_factor(50, 5, how) == pytest.approx(0.0)


def first_gradients(run: Path) -> list[torch.Tensor]:
    """After one step the momentum is the gradient (and its weight decay)."""
    state = RunState.load(run / "last.state").tensors["optimiser"]["state"]
    return [state[number]["momentum_buffer"] for number in sorted(state)]


def test_parts_that_are_accumulated_make_the_step_of_the_whole(
    folder: Path, tmp_path: Path
) -> None:
    data = read_something(folder, "train")
    one_step = LabelledVideos(data.labels, data.samples[:8])
    gradients = []
    for parts in (1, 4):
        # Norms of a batch would see other clips in a part of it.
        recipe = with_start(small_recipe(epochs=1, accumulate=parts), freeze_norms=True)
        train(recipe, one_step, tmp_path / f"{parts}.pt", run=tmp_path / str(parts))
        gradients.append(first_gradients(tmp_path / str(parts)))
    for whole, summed in zip(*gradients, strict=True):
        assert (whole - summed).abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.parametrize(
    "changes",
    [
        {"ema_decay": 0.9},
        {"clip_gradient_norm": 0.01},
        {"precision": "bf16"},
        {"nesterov": False},
        {"dropout": 0.9},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_option_changes_the_weights_and_the_run_goes_through(
    folder: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    data = read_something(folder, "train")
    for name, recipe in (("a", small_recipe(epochs=1)), ("b", small_recipe(epochs=1, **changes))):
        train(recipe, data, tmp_path / f"{name}.pt", run=tmp_path / name)
    first, second = (load_model(tmp_path / f"{name}.pt")[0].state_dict() for name in "ab")
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert all(torch.isfinite(tensor).all() for tensor in second.values())


def test_videomix_changes_the_run(folder: Path, tmp_path: Path) -> None:
    data = read_something(folder, "train")
    plain = small_recipe(epochs=1)
    mixed = Recipe.parse({**plain.model_dump(), "augmentation": {"videomix_alpha": 1.0}})
    for name, recipe in (("a", plain), ("b", mixed)):
        train(recipe, data, tmp_path / f"{name}.pt", run=tmp_path / name)
    first, second = ((tmp_path / name / "losses.csv").read_text() for name in "ab")
    assert first != second


def test_frozen_stages_and_norms_keep_their_weights_and_statistics(
    folder: Path, tmp_path: Path
) -> None:
    data = read_something(folder, "train")
    train(small_recipe(epochs=1), data, tmp_path / "a.pt", run=tmp_path / "a")
    frozen = with_start(
        small_recipe(epochs=1, seed=1),
        weights=str(tmp_path / "a.pt"),
        freeze=["conv1", "conv2"],
        freeze_norms=True,
    )
    train(frozen, data, tmp_path / "b.pt", run=tmp_path / "b")
    first, second = (load_model(tmp_path / f"{name}.pt")[0].state_dict() for name in "ab")
    for name in first:
        kept = name.startswith(("conv1", "conv2")) or "running" in name or "tracked" in name
        assert torch.equal(first[name], second[name]) == kept, name
    cards = [load_model(tmp_path / f"{name}.pt")[1] for name in "ab"]
    assert [card.lineage.frozen for card in cards] == [(), ("conv1", "conv2")]


def test_a_diverging_run_says_so_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    recipe = small_recipe(learning_rate=1e20, warmup_epochs=0.0)
    data = read_something(folder, "train")
    with pytest.raises(TrainingError, match="is not a number; lower learning_rate"):
        train(recipe, data, tmp_path / "a.pt", run=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("learning_rate", "told"), [(1e-3, False), (3.0, True)])
def test_a_loss_far_above_guessing_is_told_with_a_way_out(
    folder: Path, tmp_path: Path, learning_rate: float, told: bool
) -> None:
    said: list[str] = []
    recipe = small_recipe(epochs=1, learning_rate=learning_rate, warmup_epochs=0.0)
    data = read_something(folder, "train")
    train(recipe, data, tmp_path / "a.pt", run=tmp_path / "a", tell=said.append)
    found = [words for words in said if "guessing would be at" in words]
    assert bool(found) == told
    if told:
        assert found[0].endswith("--set optimisation.learning_rate=0.3")
        assert found[0] in (tmp_path / "a" / "log.txt").read_text()


def test_weights_spoilt_by_the_last_step_are_told_and_the_state_before_it_is_kept(
    folder: Path, tmp_path: Path
) -> None:
    # One step an epoch: its loss is a number, the weights that it makes are not.
    recipe = small_recipe(epochs=1, batch_size=40, learning_rate=1e38, warmup_epochs=0.0)
    data, run = read_something(folder, "train"), tmp_path / "run"
    message = r"after epoch 1 weights are not finite.*; lower learning_rate .*run/last\.state"
    with pytest.raises(TrainingError, match=message):
        train(recipe, data, tmp_path / "a.pt", run=run)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    state = RunState.load(run / "last.state")
    assert (state.progress.epoch, state.progress.step) == (0, 0)
    assert all(torch.isfinite(t).all() for t in state.tensors["model"].values())
    assert "diverged: after epoch 1" in (run / "log.txt").read_text().splitlines()[-1]
    with pytest.raises(TrainingError, match=message):  # it goes on, and comes to the same
        train(recipe, data, tmp_path / "a.pt", run=run, resume=True)


def of_one_number(**changes: object) -> Recipe:
    """A recipe whose last feature maps are 1 x 1 x 1."""
    fields = small_recipe(epochs=1, **changes).model_dump()
    fields["clip"] |= {"num_frames": 1, "short_side_px": 32, "crop_px": 32}
    return Recipe.parse(fields)


def test_a_norm_that_sees_one_number_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path
) -> None:
    data = read_something(folder, "train")
    for changes in ({"batch_size": 1}, {"batch_size": 2, "accumulate": 2}):
        message = rf"1 x 1 x 1 .*conv5.*batch_size {changes['batch_size']}, accumulate"
        with pytest.raises(TrainingError, match=message):
            train(of_one_number(**changes), data, tmp_path / "a.pt", run=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    fields = ModelSpec.parse({"architecture": "i3d-resnet18", "num_classes": 2, "width": 0.125})
    model, clip = build(fields), of_one_number().clip_spec()
    two = of_one_number(batch_size=2).optimisation
    with pytest.raises(TrainingError, match="processes 2"):
        check_norms(model, clip, Start(), two, world_size=2)
    check_norms(model, clip, Start(), two, world_size=1)
    # Norms that keep their statistics, or see more of a picture, want no second clip.
    check_norms(model, clip, Start(freeze_norms=True), two, world_size=2)
    check_norms(model, small_recipe().clip_spec(), Start(), two, world_size=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_training_video_is_replaced_counted_and_named(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    data = read_something(folder, "train")
    (tmp_path / "broken.webm").write_bytes(b"no video")
    samples = (*data.samples[:15], Sample(tmp_path / "broken.webm", 0))
    broken = LabelledVideos(data.labels, samples, data.reverse)
    (tmp_path / "unseen.webm").write_bytes(b"")
    held_out = LabelledVideos(
        data.labels, (Sample(tmp_path / "unseen.webm", 0), *data.samples[:3]), data.reverse
    )
    reports: list[Report] = []
    train(
        small_recipe(workers=workers, epochs=2),
        broken,
        tmp_path / "a.pt",
        run=tmp_path / "run",
        validation=held_out,
        report=reports.append,
    )
    assert reports[-1].broken == (str(tmp_path / "broken.webm"),)
    accuracy = reports[-1].validation
    assert accuracy is not None
    assert accuracy.videos == 3
    assert accuracy.broken == {str(tmp_path / "unseen.webm"): "is empty (0 bytes)"}
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("broken.webm' is no video") == 1
    assert "replaced by another video" in log
    assert log.count("unseen.webm' is empty (0 bytes); left out of validation\n") == 1


def test_a_set_of_broken_videos_ends_the_run_by_name(folder: Path, tmp_path: Path) -> None:
    data = read_something(folder, "train")
    (tmp_path / "broken.webm").write_bytes(b"no video")
    broken = LabelledVideos(data.labels, (Sample(tmp_path / "broken.webm", 0),) * 9, {})
    with pytest.raises(DatasetError, match=r"broken\.webm' is no video .* data check") as caught:
        train(small_recipe(), broken, tmp_path / "a.pt", run=tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_an_output_that_cannot_be_is_refused_before_training(folder: Path, tmp_path: Path) -> None:
    reports: list[Report] = []
    data = read_something(folder, "train")
    for name in ("no/a.pt", "a.bin"):
        with pytest.raises(ArtifactError, match="cannot write"):
            train(
                small_recipe(), data, tmp_path / name, run=tmp_path / "run", report=reports.append
            )
    assert reports == []
    assert list(tmp_path.iterdir()) == []


def test_batches_that_cannot_be_are_refused(folder: Path, tmp_path: Path) -> None:
    data = read_something(folder, "train")
    few = LabelledVideos(data.labels, data.samples[:7], data.reverse)
    with pytest.raises(TrainingError, match="7 training videos make no batch of 8"):
        train(small_recipe(), few, tmp_path / "a.pt", run=tmp_path / "run")
    with pytest.raises(TrainingError, match="make it a multiple of 3"):
        train(small_recipe(accumulate=3), data, tmp_path / "a.pt", run=tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="about hosts without a GPU")
@pytest.mark.parametrize(
    ("changes", "accelerator"),
    [({}, "cuda"), ({"precision": "fp16"}, "auto"), ({"sync_batch_norm": True}, "auto")],
)
def test_what_needs_a_gpu_says_so(
    folder: Path, tmp_path: Path, changes: dict[str, object], accelerator: Literal["auto", "cuda"]
) -> None:
    data = read_something(folder, "train")
    with pytest.raises(BackendError, match="GPU"):
        train(
            small_recipe(**changes),
            data,
            tmp_path / "a.pt",
            run=tmp_path / "run",
            machine=Machine(accelerator=accelerator),
        )
    assert list(tmp_path.iterdir()) == []


def test_evaluation_refuses_other_labels(folder: Path, tmp_path: Path) -> None:
    data = read_something(folder, "train")
    train(small_recipe(epochs=1), data, tmp_path / "a.pt", run=tmp_path / "run")
    other = LabelledVideos(("x", "y"), (Sample(data.samples[0].video, 0),))
    with (
        Classifier.open(tmp_path / "a.pt") as classifier,
        pytest.raises(
            DatasetError, match=r"the 10 labels of the artifact: 'x'; use .*--set labels=FILE"
        ),
    ):
        evaluate(classifier, other)


def test_evaluation_counts_broken_videos_apart(folder: Path, tmp_path: Path) -> None:
    data = read_something(folder, "validation")
    train(
        small_recipe(epochs=1),
        read_something(folder, "train"),
        tmp_path / "a.pt",
        run=tmp_path / "run",
    )
    broken = tmp_path / "broken.webm"
    broken.write_bytes(b"no video")
    with Classifier.open(tmp_path / "a.pt") as classifier:
        logits = [average_views(classifier.classify(s.video).view_logits) for s in data.samples]
        best = [int(row.argmax()) for row in logits]
        # Relabelled so that the network is right about seven videos and calls three their reversal.
        labels = [*best[:7], *(label ^ 1 for label in best[7:])]
        samples = [Sample(s.video, label) for s, label in zip(data.samples, labels, strict=True)]
        samples.append(Sample(broken, 0))
        result = evaluate(classifier, LabelledVideos(data.labels, tuple(samples), data.reverse))
    assert (result.videos, result.failed) == (10, 1)
    assert result.top1 == 0.7
    assert result.within_pairs == 0.7
    in_best_five = [row.argsort()[::-1][:5].tolist() for row in logits]
    expected = sum(n in five for n, five in zip(labels, in_best_five, strict=True)) / 10
    assert result.top5 == expected


def test_filters_are_logged_from_the_start_to_the_end(folder: Path, tmp_path: Path) -> None:
    data = read_something(folder, "train")
    train(small_recipe(), data, tmp_path / "a.pt", run=tmp_path / "a", log_filters=True)
    rows = read_shares(tmp_path / "a" / "filters.csv")
    model, _ = load_model(tmp_path / "a.pt")
    layers = [name for name, layer in filters_of(model) if layer.kernel_size[0] > 1]
    assert [(row.epoch, row.layer) for row in rows] == [(e, n) for e in range(3) for n in layers]
    assert rows[-len(layers) :] == filter_shares(model, 2)
    assert rows[0] != rows[-len(layers)]
    assert (tmp_path / "a" / "filters.png").is_file()
    train(small_recipe(), data, tmp_path / "b.pt", run=tmp_path / "b")
    assert not (tmp_path / "b" / "filters.csv").exists()


def test_the_log_of_filters_goes_on_after_a_break(tmp_path: Path) -> None:
    model = tiny_model(branches="multi", temporal_lengths=(1, 1, 1, 3, 3))
    log = RunFolder(tmp_path, resume=False)
    for epoch in (0, 1, 2, 1):  # the second and third are done again
        log.filters(filter_shares(model, epoch))
    assert [row.epoch for row in read_shares(tmp_path / "filters.csv")] == [0] * 8 + [1] * 8


def test_a_new_run_forgets_what_was_measured_in_its_folder(tmp_path: Path) -> None:
    write_evaluation(tmp_path, {"summary": "top-1 90.0%", "failed": 0, "classes": {}})
    for step, kept in ((3, True), (0, False)):
        RunFolder(tmp_path, resume=False).begin(small_recipe(), {}, step=step, rows=[])
        assert (read_evaluation(tmp_path) is not None) is kept
