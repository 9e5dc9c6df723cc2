"""From the name of an architecture to a network. A new one needs its file and one line here."""

from collections.abc import Callable
from types import MappingProxyType

from stdeploy.errors import SpecError
from stdeploy.models.base import ActionModel
from stdeploy.models.i3d_inception import I3DInception
from stdeploy.models.i3d_resnet import i3d_resnet18, i3d_resnet50
from stdeploy.models.s3d_resnet import s3d_resnet50
from stdeploy.spec import ModelSpec

ARCHITECTURES: MappingProxyType[str, Callable[[ModelSpec], ActionModel]] = MappingProxyType(
    {
        "i3d-resnet18": i3d_resnet18,
        "i3d-resnet50": i3d_resnet50,
        "s3d-resnet50": s3d_resnet50,
        "i3d-inception": I3DInception,
    }
)


def build(spec: ModelSpec) -> ActionModel:
    """Build a network with fresh weights.

    Raises:
        SpecError: no such architecture.
    """
    if spec.architecture not in ARCHITECTURES:
        raise SpecError(
            f"architecture {spec.architecture!r} is not known; "
            f"choose one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[spec.architecture](spec)
