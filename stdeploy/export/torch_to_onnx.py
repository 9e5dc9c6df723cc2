"""How this project calls torch.onnx.export."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import nn

from stdeploy.artifacts.spec import Precision
from stdeploy.errors import ArtifactError

# A convolution takes bfloat16 from opset 22 on; for the rest an older one is understood by more.
OPSETS: dict[Precision, int] = {"fp32": 20, "fp16": 20, "bf16": 22, "int8": 20}


def torch_to_onnx(
    network: nn.Module,
    examples: tuple[Any, ...],
    *,
    dynamic_shapes: Any,
    precision: Precision,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """The checked graph of a network.

    Args:
        network: on the CPU.
        examples: what it takes; batches of two, because torch.export would take a batch of one for
            a constant.
        dynamic_shapes: which axes may have other sizes, as torch.export has it.
        precision: of the graph.
        input_names: of the graph; None for those of the arguments.
        output_names: likewise.

    Raises:
        ArtifactError: the exporter gave no graph.
        Exception: what torch.export raises of a network that it cannot trace.
    """
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            examples,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSETS[precision],
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ArtifactError("torch.onnx.export gave no program; is onnxscript up to date?")
    proto = program.model_proto
    onnx.checker.check_model(proto, full_check=True)
    return proto


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns about its own internals, which no user of ours can act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
