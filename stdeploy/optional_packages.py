"""Packages of the extras: imported where they are needed, or the command that brings them."""

import importlib
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

from stdeploy.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional extra.

    What reports to its makers as soon as it is imported is kept from it before.

    Args:
        module: importable name, for example "onnxruntime".
        extra: the extra of stdeploy that installs it, for example "cpu".
        purpose: what needs it, as the subject of a sentence: "running an .onnx file".

    Returns:
        The imported module.

    Raises:
        MissingExtraError: it is not installed; the message holds the pip command.
    """
    if module.partition(".")[0] in ("onnxruntime", "openvino"):
        _disable_telemetry()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # installed, but broken inside: that is another story
        install = pip_install(extra)
        raise MissingExtraError(
            f"{purpose} needs {module}, which is not installed; run: {with_our_pip(install)}",
            install,
        ) from error


def _disable_telemetry() -> None:
    """ONNX Runtime has a switch; OpenVINO does without its reporter where it cannot be imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def pip_install(extra: str) -> str:
    """The command that brings an extra of stdeploy, in a clone too, without a path of this host.

    pip takes the stdeploy that is installed already, and asks no index for it.
    """
    return f"pip install 'stdeploy[{extra}]'"


def with_our_pip(command: str) -> str:
    """The same, with the pip of this environment where the shell would find another one.

    >>> with_our_pip("pip install 'stdeploy[cpu]'")  # in an environment that is not activated
    "/home/me/stdeploy/.venv/bin/python -m pip install 'stdeploy[cpu]'"
    """
    found = shutil.which("pip")
    if found is not None and Path(found).parent.samefile(Path(sys.executable).parent):
        return command
    ours = f"{shlex.quote(sys.executable)} -m pip "
    return re.sub(r"\bpip (?=install|uninstall)", lambda _: ours, command)
