from pathlib import Path

from stdeploy.train.order_experiment import ARMS, Arm
from stdeploy.train.order_report import to_markdown
from stdeploy.train.order_runs import ArmResult
from stdeploy.train.plots import draw_gaps, draw_learning


def result(accuracy: float, *, loss: float = 0.1) -> ArmResult:
    values = (accuracy - 1.0, accuracy + 1.0)
    return ArmResult(
        losses=(loss, loss),
        accuracies=dict.fromkeys(("alike", "moving camera", "other speeds"), values),
        by_gap={2: values, 3: (accuracy, accuracy)},
        curve=((10, (2.0, 2.1), (20.0, 22.0)), (20, (loss, loss), values)),
        seconds=90.0,
    )


def named(name: str) -> Arm:
    return next(arm for arm in ARMS if arm.name == name)


def test_tables_show_spread_intervals_and_what_was_not_learnt() -> None:
    results = {named("b"): result(70.0), named("b1"): result(72.0, loss=0.5)}
    text = to_markdown(results)
    assert "| b | 70.0 ± 1.4 | 70.0 ± 1.4 | 70.0 ± 1.4 | 0.100 | 1.5 |" in text
    assert "| b1 | 72.0 ± 1.4 | 72.0 ± 1.4 | 72.0 ± 1.4 | 0.500 (not learnt) | 1.5 |" in text
    # Both seeds differ by 2 points, so the interval is a point and two seeds are enough.
    line = "| t5 = 5 (b1 - b) (not learnt: b1) | alike | +2.00 | +2.00 to +2.00 | +0.76 | 2 |"
    assert line in text
    assert "regularisation" not in text  # its arms are not there
    assert "| b | 70.0 | 70.0 |" in text
    assert "| arm | 2 frames | 3 frames |" in text


def test_pictures_of_arms_are_drawn(tmp_path: Path) -> None:
    results = {arm: result(60.0 + number) for number, arm in enumerate(ARMS)}
    for draw in (draw_gaps, draw_learning):
        draw(results, tmp_path / f"{draw.__name__}.svg")
        text = (tmp_path / f"{draw.__name__}.svg").read_text()
        assert "<svg" in text
        assert len(text) > 5000
