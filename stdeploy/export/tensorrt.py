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
    by_hand = f"trtexec --onnx={onnx_file.name} --saveEngine={onnx_file.stem}.engine"
    if importlib.util.find_spec("tensorrt") is None:
        return (
            f"{str(onnx_file)!r} is written and verified, but TensorRT is not installed here, so "
            "there is no engine; on the GPU host run: pip install 'stdeploy[trt]', then: "
            f"stdeploy export --trt, or build it by hand with: {by_hand}"
        )
    return (
        f"{str(onnx_file)!r} is written and verified, but this version of stdeploy builds no "
        f"engines yet; on the GPU host run: {by_hand}"
    )
