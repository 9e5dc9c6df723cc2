"""The order experiment at its smallest: it trains, keeps what is done, and goes on."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.errors import SpecError
from stdeploy.models.registry import build
from stdeploy.train.initialisation import inflate_network
from stdeploy.train.order_experiment import ARMS, Arm
from stdeploy.train.order_runs import OrderSettings, run_arms, two_dimensional

TINY = OrderSettings(
    height_px=12,
    width_px=16,
    num_frames=12,
    gaps=(2, 4),
    width=0.25,
    seeds=2,
    steps=13,
    batch_size=8,
    start_steps=5,
    validation_clips=100,
)
TWO = [arm for arm in ARMS if arm.name in ("b1", "multi eta 2, augmented")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("order")
    list(run_arms(TWO, TINY, folder))
    return folder


def test_every_arm_is_trained_and_kept(folder: Path) -> None:
    told: list[str] = []
    again = list(run_arms(TWO, TINY, folder, tell=told.append))
    assert told == []  # nothing was trained twice
    assert [arm for arm, _ in again] == TWO
    for _, result in again:
        assert len(result.losses) == 2
        assert all(0 < loss < 10 for loss in result.losses)
        assert set(result.accuracies) == {"alike", "moving camera", "other speeds"}
        assert set(result.by_gap) == {2, 3, 4}
        assert len(result.curve) == 13
        for values in (*result.accuracies.values(), *result.by_gap.values()):
            assert len(values) == 2
            assert all(0 <= value <= 100 for value in values)


def test_seeds_at_once_are_seeds_one_by_one(folder: Path, tmp_path: Path) -> None:
    ((_, alone),) = run_arms(TWO[:1], TINY, folder)
    stacked = TINY.model_copy(update={"stack": 2})
    (tmp_path / "start.safetensors").write_bytes((folder / "start.safetensors").read_bytes())
    ((_, together),) = run_arms(TWO[:1], stacked, tmp_path)
    assert together.losses == pytest.approx(alone.losses, rel=1e-3)
    for (_, first, _), (_, second, _) in zip(alone.curve, together.curve, strict=True):
        assert second == pytest.approx(first, rel=1e-3)


def test_arms_side_by_side_are_arms_one_by_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "start.safetensors").write_bytes((folder / "start.safetensors").read_bytes())
    both = list(run_arms(TWO, TINY, tmp_path, at_once=2))
    assert [arm for arm, _ in both] == TWO
    for (_, one), (_, other) in zip(run_arms(TWO, TINY, folder), both, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-3)  # other sums of other threads


def test_seeds_differ_and_arms_of_a_seed_see_the_same_clips(folder: Path) -> None:
    ((_, one), (_, other)) = run_arms(TWO, TINY, folder)
    assert one.losses[0] != one.losses[1]
    assert one.losses != other.losses


def test_other_settings_need_another_folder(folder: Path) -> None:
    other = TINY.model_copy(update={"steps": 14})
    with pytest.raises(SpecError, match=r"holds results of steps = 13, not 14; give another"):
        list(run_arms(TWO, other, folder))


def test_a_result_is_what_the_file_says(folder: Path) -> None:
    content = json.loads((folder / "b1.json").read_text())
    ((_, result),) = run_arms(TWO[:1], TINY, folder)
    assert content["losses"] == list(result.losses)


def test_the_start_is_the_2d_network_itself() -> None:
    torch.manual_seed(3)
    spec = ModelSpec(
        architecture="plain",
        num_classes=4,
        temporal_lengths=(1, 1, 1, 1, 1),
        branches="single",
        eta=1.0,
        width=0.25,
    )
    flat = build(spec)
    for module in flat.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    flat.eval()
    other = build(spec)
    inflate_network(other, two_dimensional(flat), "filter", source="the 2D network")
    other.head.load_state_dict(flat.head.state_dict())
    other.eval()
    x = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(other(x), flat(x))


def test_a_network_with_temporal_lengths_is_no_2d_one() -> None:
    arm = dataclasses.replace(Arm("x", "b"), branches="single")
    with pytest.raises(SpecError, match=r"conv3\.0 has a temporal length"):
        two_dimensional(build(arm.spec(4, 0.25)))
