"""Python as after `pip install 'stdeploy[EXTRA]'`: what else is installed cannot be imported."""

import importlib.metadata
import json
import os
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

# Python imports a module of this name when it starts, also in processes that a program starts.
_HIDE = """
import importlib.machinery, json, os, sys
hidden = frozenset(json.loads(os.environ["STDEPLOY_TEST_HIDDEN"]))
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in hidden:  # copies that packages carry in folders of their own are theirs
            path = [folder for folder in sys.path if not folder.endswith("site-packages")]
        return super().find_spec(name, path, target)
sys.meta_path[:] = [
    Finder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path
]
"""


def requirements_of(*extras: str) -> list[Requirement]:
    """What pyproject.toml names for the extras, without what every installation has."""
    return [Requirement(line) for extra in extras for line in EXTRAS[extra]]


def installed_with(*extras: str) -> set[str]:
    """Distributions that pip would bring for the extras, with those that they need in turn.

    Raises:
        importlib.metadata.PackageNotFoundError: one of them is not installed here.
    """
    found: set[str] = set()
    base = [Requirement(line) for line in PROJECT["dependencies"]]
    waiting = [*base, *requirements_of(*extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        found.add(key[0])
        waiting += _needed_by(requirement)
    return found


def _needed_by(requirement: Requirement) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(requirement.name) or ():
        needed = Requirement(line)
        asked = ("", *requirement.extras)
        if needed.marker is None or any(needed.marker.evaluate({"extra": one}) for one in asked):
            yield needed


def modules_of(distributions: Iterable[str]) -> set[str]:
    """Top-level modules that the distributions bring."""
    wanted = set(distributions)
    return {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if wanted & {canonicalize_name(owner) for owner in owners}
    }


def environment_with(*extras: str, folder: Path) -> dict[str, str]:
    """Variables for a process that finds the extras alone.

    Args:
        extras: of pyproject.toml.
        folder: empty; gets the module that hides all else.
    """
    shown = modules_of(installed_with(*extras)) | {"stdeploy"}
    hidden = sorted(set(importlib.metadata.packages_distributions()) - shown)
    (folder / "sitecustomize.py").write_text(_HIDE)
    path = os.pathsep.join([str(folder), str(ROOT)])
    return {"PYTHONPATH": path, "STDEPLOY_TEST_HIDDEN": json.dumps(hidden)}
