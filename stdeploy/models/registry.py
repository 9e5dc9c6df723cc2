"""From the name of an architecture to a network. A new one is its file and one line here."""

import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from stdeploy.artifacts.spec import ModelSpec, TemporalLengths
from stdeploy.errors import SpecError
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    from stdeploy.models.base import ActionModel

# Name -> "module:what makes a network of a ModelSpec". Text, so that names can be listed without
# torch.
ARCHITECTURES: Mapping[str, str] = {
    "i3d-resnet18": "stdeploy.models.resnet:i3d_resnet18",
    "i3d-resnet50": "stdeploy.models.resnet:i3d_resnet50",
    "s3d-resnet50": "stdeploy.models.resnet:s3d_resnet50",
    "i3d-inception": "stdeploy.models.i3d_inception:I3DInception",
    "plain": "stdeploy.models.plain:PlainNet",
}
# Likewise, of networks of other projects: the name alone is none, `ModelSpec.layout` says the rest.
OF_A_LAYOUT: Mapping[str, str] = {
    "resnet3d": "stdeploy.models.resnet:resnet3d",
    "inception3d": "stdeploy.models.i3d_inception:inception3d",
    "x3d": "stdeploy.models.x3d:X3D",
    "slowfast": "stdeploy.models.slowfast:SlowFast",
}


def check_architecture(name: str) -> None:
    """Refuse what is not in the registry.

    Raises:
        SpecError: no such architecture.
    """
    if name not in ARCHITECTURES:
        raise SpecError(
            f"architecture {name!r} is not known; choose one of {', '.join(ARCHITECTURES)}"
        )


def build_model(
    architecture: str,
    *,
    num_classes: int,
    temporal_lengths: TemporalLengths = (1, 1, 3, 3, 5),
    branches: Literal["single", "multi"] = "multi",
    eta: float = 2.0,
    width: float = 1.0,
    causal: bool = False,
) -> "ActionModel":
    """Build a network with fresh weights from plain values; see `ModelSpec` for each.

    Raises:
        SpecError: a value that describes no network.
        MissingExtraError: torch is not installed.
    """
    fields = {
        "architecture": architecture,
        "num_classes": num_classes,
        "temporal_lengths": tuple(temporal_lengths),
        "branches": branches,
        "eta": eta,
        "width": width,
        "causal": causal,
    }
    spec = ModelSpec.parse(fields)
    require("torch", extra="export", purpose="building a network")
    return build(spec)


def build(spec: ModelSpec) -> "ActionModel":
    """Build a network with fresh weights.

    Raises:
        SpecError: no such architecture, one that needs a layout and has none, or one that cannot be
            causal.
    """
    if spec.layout is None:
        check_architecture(spec.architecture)
    elif spec.architecture not in OF_A_LAYOUT:
        raise SpecError(
            f"architecture {spec.architecture!r} has no layout; with one, {', '.join(OF_A_LAYOUT)} "
            "is allowed"
        )
    place = {**ARCHITECTURES, **OF_A_LAYOUT}[spec.architecture]
    make: Callable[[ModelSpec], ActionModel] = pkgutil.resolve_name(place)
    return make(spec)
