"""How a `Classifier` makes clips of videos and batches of clips."""

import dataclasses
import os
from typing import Literal, get_args

from stdeploy.errors import check_choice, check_count
from stdeploy.video.decoder import DecoderName

_MOST_JOBS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """How videos become clips and clips become batches.

    Attributes:
        views: clips per video; None takes the card's.
        crops: of each of those, 1 (the centre) or 3 (along the longer side).
        batch: clips that the network gets at once, of one video or of several.
        jobs: videos decoded at once; None is one for each processor, at most 16.
        decoder: the library that reads them, see `VideoReader`.
    """

    views: int | None = None
    crops: Literal[1, 3] = 1
    batch: int = 1
    jobs: int | None = None
    decoder: DecoderName = "auto"

    def __post_init__(self) -> None:
        for name in ("views", "jobs"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("batch", self.batch)
        check_choice("crops", self.crops, (1, 3))
        check_choice("decoder", self.decoder, get_args(DecoderName))

    @property
    def decoding_jobs(self) -> int:
        """Videos decoded at once."""
        return self.jobs or min(_MOST_JOBS, os.cpu_count() or 1)


DEFAULT_CLASSIFY = ClassifyOptions()
