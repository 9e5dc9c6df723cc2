import re
from dataclasses import replace

import pytest

from stdeploy.analysis.filters import StageFilters
from stdeploy.analysis.length_advice import RULES, recommend

PLAIN = StageFilters(
    stage="",
    layers=1,
    length=3,
    average=0.6,
    first_differential=0.2,
    second_differential=0.2,
    centre=0.4,
    peak=0.4,
    flatness=0.8,
    entropy=0.8,
    spread_frames=0.7,
)


def stages(*measures: tuple[float, float], length: int = 3) -> list[StageFilters]:
    return [
        replace(PLAIN, stage=f"conv{number}", peak=peak, flatness=flat, length=length)
        for number, (peak, flat) in enumerate(measures, start=1)
    ]


@pytest.mark.parametrize(
    ("measures", "verdicts", "lengths"),
    [
        # What the Kinetics I3D measures: the paper's configuration b1.
        (
            [(0.60, 0.65), (0.58, 0.87), (0.54, 0.90), (0.48, 0.95), (0.46, 0.94)],
            ["spatial", "spatial", "temporal", "temporal", "broad"],
            [1, 1, 3, 3, 5],
        ),
        # The last three stages are never shortened, whatever they look like.
        (
            [(0.9, 0.2)] * 5,
            ["spatial", "spatial", "gathered", "gathered", "gathered"],
            [1, 1, 3, 3, 3],
        ),
        # Broad filters of a stage before the last do not ask for more.
        ([(0.34, 1.0)] * 3, ["temporal", "temporal", "broad"], [3, 3, 5]),
        ([(0.6, 0.5)], ["gathered"], [3]),
    ],
)
def test_lengths_by_the_papers_reading(
    measures: list[tuple[float, float]], verdicts: list[str], lengths: list[int]
) -> None:
    advice = recommend(stages(*measures))
    assert [each.verdict for each in advice] == verdicts
    assert [each.recommended for each in advice] == lengths


def test_advice_says_what_it_rests_on() -> None:
    first, *_, last = recommend(stages((0.9, 0.2), (0.4, 0.8), (0.4, 0.8), (0.4, 0.95), length=5))
    assert first.reason == "90% of the energy lies in one frame: a spatial filter does it"
    assert last.recommended == 7
    assert "flat 0.95" in last.reason


def test_rules_say_the_figures_by_which_is_advised() -> None:
    (peak,) = re.findall(r"(\d+)% of the energy", RULES[0])
    (kept,) = re.findall(r"last (\d+) stages", RULES[1])
    flat, more = re.findall(r"flat by (\S+) of 1 .* (\d+) frames longer", RULES[2])[0]
    enough, too_little = int(peak) / 100, int(peak) / 100 - 0.001
    others = [(0.4, 0.5)] * int(kept)
    assert recommend(stages((enough, 0.5), *others))[0].recommended == 1
    assert recommend(stages((too_little, 0.5), *others))[0].recommended == 3
    assert recommend(stages(*[(enough, 0.5)] * int(kept)))[0].recommended == 3
    assert recommend(stages((0.4, float(flat))))[0].recommended == 3 + int(more)
    assert recommend(stages((0.4, float(flat) - 0.001)))[0].recommended == 3
