"""From the name of a layout to what reads it. A new one is its file and one line here."""

import pkgutil
from collections.abc import Mapping

from stdeploy.datasets.layout import Layout

# Name, as errors list it -> "module:Layout". A folder is read by the first that recognises it, so
# those that anything resembles come last.
LAYOUTS: Mapping[str, str] = {
    "Something-Something-v2": "stdeploy.datasets.something_something:LAYOUT",
    "UCF101": "stdeploy.datasets.ucf101:LAYOUT",
    "HMDB51": "stdeploy.datasets.hmdb51:LAYOUT",
    "Kinetics": "stdeploy.datasets.kinetics:LAYOUT",
    "train.csv and validation.csv with those columns": "stdeploy.datasets.csv_list:LAYOUT",
    "train/CLASS/*.mp4 and validation/CLASS/*.mp4": "stdeploy.datasets.folders:LAYOUT",
}


def layout(name: str) -> Layout:
    """A layout of the registry by its name."""
    found: Layout = pkgutil.resolve_name(LAYOUTS[name])
    return found
