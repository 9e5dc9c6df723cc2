"""The networks of other projects that are known by their weights, by the names that --as takes."""

from collections.abc import Mapping

from stdeploy.importing.family import Family
from stdeploy.importing.inceptions import INCEPTIONS
from stdeploy.importing.resnet_families import RESNETS
from stdeploy.importing.slowfast import SLOWFASTS
from stdeploy.importing.x3d import X3DS

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (*RESNETS, *INCEPTIONS, *X3DS, *SLOWFASTS)
}
