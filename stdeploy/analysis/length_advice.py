"""Which temporal lengths a trained network asks for, by the paper's reading (section 2.2).

The paper draws two conclusions from figure 1 and confirms them in Table 2: shallow layers whose
filters gather in one frame are spatial ones and can be one frame long (rows a and b), and the
last stage, whose filters are broad, gains from a longer one (b1), the stages before it do not (b2,
b3). Shortening conv3, conv4 or conv5 lost accuracy (c, d, 2D), whatever their filters looked like.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from stdeploy.analysis.filters import StageFilters

# NOTE: the paper gives no numbers. The Kinetics I3D has .60 and .58 in conv1 and conv2, which its
# reading calls spatial, and .54 and less from conv3 on, which it does not.
SPATIAL_PEAK = 0.55
# Of the same network .94 in conv5; a filter of 3 frames that holds .25, .5, .25 has .95.
BROAD_FLATNESS = 0.9

KEPT_STAGES = 3  # the last ones, which are never advised to be shorter
MORE_FRAMES = 2  # that a broad last stage is advised to have

# For people: what `recommend` does.
RULES = (
    f"One frame holds {SPATIAL_PEAK:.0%} of the energy or more: 1 frame long, since such a filter "
    "hardly looks at the others.",
    f"The last {KEPT_STAGES} stages are never made shorter: in the paper that lost accuracy.",
    f"The last stage, if it is flat by {BROAD_FLATNESS} of 1 or more, and no frame holds "
    f"{SPATIAL_PEAK:.0%}: {MORE_FRAMES} frames longer.",
    "All others stay as they are.",
)

Verdict = Literal["spatial", "gathered", "temporal", "broad"]


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to do with the temporal length of a stage, and the numbers that it rests on.

    Attributes:
        stage: such as "conv3".
        length: that it has.
        recommended: that its filters ask for.
        verdict: "spatial": one frame holds at least SPATIAL_PEAK of the energy; "gathered": the
            same in one of the last KEPT_STAGES; "broad": the last stage, with a flatness of at
            least BROAD_FLATNESS; "temporal": the rest.
        peak: see `StageFilters`.
        flatness: likewise.
    """

    stage: str
    length: int
    recommended: int
    verdict: Verdict
    peak: float
    flatness: float

    @property
    def reason(self) -> str:
        """The verdict as the end of a sentence."""
        if self.verdict == "spatial":
            return f"{self.peak:.0%} of the energy lies in one frame: a spatial filter does it"
        if self.verdict == "gathered":
            return (
                f"{self.peak:.0%} of the energy lies in one frame, but in the paper shorter "
                f"filters in the last {KEPT_STAGES} stages lost accuracy"
            )
        if self.verdict == "broad":
            return (
                f"the last stage, and even over its frames (flat {self.flatness:.2f}, where 1 is "
                "the same in each): longer filters may gain"
            )
        even = f"flat {self.flatness:.2f}, where 1 is the same in each"
        return f"{self.peak:.0%} in one frame, {even}: it uses its frames"


def recommend(stages: Sequence[StageFilters]) -> list[Advice]:
    """Temporal lengths by the paper's reading.

    A stage of length 1 has no temporal filter and is not among the stages; nothing can be read
    of what it would do with a longer one.

    Args:
        stages: of one network, shallow to deep.
    """
    return [
        _advice(stage, from_last=len(stages) - 1 - number) for number, stage in enumerate(stages)
    ]


def _advice(stage: StageFilters, *, from_last: int) -> Advice:
    verdict: Verdict = "temporal"
    length = stage.length
    if stage.peak >= SPATIAL_PEAK:
        verdict = "gathered" if from_last < KEPT_STAGES else "spatial"
        length = length if from_last < KEPT_STAGES else 1
    elif from_last == 0 and stage.flatness >= BROAD_FLATNESS:
        verdict, length = "broad", stage.length + MORE_FRAMES
    return Advice(stage.stage, stage.length, length, verdict, stage.peak, stage.flatness)
