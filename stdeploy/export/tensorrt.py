"""TensorRT engines from verified .onnx files."""

import importlib.util
from pathlib import Path


def missing_tensorrt(onnx_file: Path) -> str:
    """What keeps this host from building an engine, and what to do.

    NOTE: this version builds no engines. It writes and verifies the .onnx, from which
    TensorRT's own trtexec builds one; exit status 3 says that no engine was made.

    Args:
        onnx_file: the verified file that an engine would be built from.
    """
    missing = (
        "TensorRT is not installed here (pip install 'stdeploy[trt]' on a GPU host) and "
        if importlib.util.find_spec("tensorrt") is None
        else ""
    )
    return (
        f"{str(onnx_file)!r} is written and verified, but there is no engine: {missing}this "
        "version of stdeploy does not build them yet; export/README.md has the command for "
        "trtexec, which comes with TensorRT's tar and deb packages"
    )
