"""stdeploy: train, fold, verify, export and run 3D-CNNs for video action classification.

The functions and classes below are the front door of the library. They are imported when they
are first used, so `import stdeploy` loads none of torch, onnx, onnxruntime, tensorrt or cv2.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stdeploy.artifacts.card import ModelCard, read_card
    from stdeploy.artifacts.spec import ClipSpec, ModelSpec
    from stdeploy.backends.base import RuntimeOptions, StreamOptions
    from stdeploy.backends.loader import open_streams
    from stdeploy.backends.streams import Stream, StreamAnswer, StreamRuntime
    from stdeploy.errors import (
        ArtifactError,
        BackendError,
        DatasetError,
        DownloadError,
        FusionError,
        MissingExtraError,
        ParityError,
        SpecError,
        StdeployError,
        TrainingError,
        VideoError,
    )
    from stdeploy.export.aot import BuiltPackage, build_package
    from stdeploy.export.engine import BuildOptions, BuiltEngine, build_engine
    from stdeploy.export.float_input import export_float_input
    from stdeploy.export.flops import Cost, count_flops
    from stdeploy.export.onnx import ExportResult, export_onnx
    from stdeploy.export.onnx_verification import verify_onnx
    from stdeploy.export.openvino_ir import OpenVinoFiles, export_openvino
    from stdeploy.export.stream import export_stream
    from stdeploy.export.torch_program import TorchProgram, export_torch_program
    from stdeploy.export.triton import write_triton
    from stdeploy.fusion import FuseResult, fuse_checkpoint
    from stdeploy.importing.checkpoint import ImportedCheckpoint, import_checkpoint
    from stdeploy.importing.clip_description import OwnerAnswer
    from stdeploy.importing.onnx_import import ImportResult, import_onnx
    from stdeploy.importing.torch_module import import_network
    from stdeploy.inference.classifier import ClassifiedVideo, Classifier
    from stdeploy.inference.classify_options import ClassifyOptions
    from stdeploy.inference.evaluation import Evaluation, evaluate
    from stdeploy.inference.live_answers import LiveAnswer
    from stdeploy.inference.live_sources import Hooks, LiveSources, SourceAnswer, SourceStatus
    from stdeploy.inference.prediction import Prediction
    from stdeploy.inference.timeline import Timeline, TimelineOptions
    from stdeploy.models.registry import build_model
    from stdeploy.train.recipe import Recipe
    from stdeploy.train.train_model import TrainResult, train_model
    from stdeploy.video.live_reader import LivePicture, LiveSource
    from stdeploy.video.live_worker import Pictures

__version__ = "0.1.0"

# Where each name is; the same as above, for when the program runs.
_WHERE = {
    "stdeploy.artifacts.card": ("ModelCard", "read_card"),
    "stdeploy.artifacts.spec": ("ClipSpec", "ModelSpec"),
    "stdeploy.backends.base": ("RuntimeOptions", "StreamOptions"),
    "stdeploy.backends.loader": ("open_streams",),
    "stdeploy.backends.streams": ("Stream", "StreamAnswer", "StreamRuntime"),
    "stdeploy.errors": (
        "ArtifactError",
        "BackendError",
        "DatasetError",
        "DownloadError",
        "FusionError",
        "MissingExtraError",
        "ParityError",
        "SpecError",
        "StdeployError",
        "TrainingError",
        "VideoError",
    ),
    "stdeploy.export.aot": ("BuiltPackage", "build_package"),
    "stdeploy.export.engine": ("BuildOptions", "BuiltEngine", "build_engine"),
    "stdeploy.export.float_input": ("export_float_input",),
    "stdeploy.export.flops": ("Cost", "count_flops"),
    "stdeploy.export.onnx": ("ExportResult", "export_onnx"),
    "stdeploy.export.onnx_verification": ("verify_onnx",),
    "stdeploy.export.openvino_ir": ("OpenVinoFiles", "export_openvino"),
    "stdeploy.export.stream": ("export_stream",),
    "stdeploy.export.torch_program": ("TorchProgram", "export_torch_program"),
    "stdeploy.export.triton": ("write_triton",),
    "stdeploy.fusion": ("FuseResult", "fuse_checkpoint"),
    "stdeploy.importing.checkpoint": ("ImportedCheckpoint", "import_checkpoint"),
    "stdeploy.importing.clip_description": ("OwnerAnswer",),
    "stdeploy.importing.onnx_import": ("ImportResult", "import_onnx"),
    "stdeploy.importing.torch_module": ("import_network",),
    "stdeploy.inference.classifier": ("ClassifiedVideo", "Classifier"),
    "stdeploy.inference.classify_options": ("ClassifyOptions",),
    "stdeploy.inference.evaluation": ("Evaluation", "evaluate"),
    "stdeploy.inference.live_answers": ("LiveAnswer",),
    "stdeploy.inference.live_sources": ("Hooks", "LiveSources", "SourceAnswer", "SourceStatus"),
    "stdeploy.inference.prediction": ("Prediction",),
    "stdeploy.inference.timeline": ("Timeline", "TimelineOptions"),
    "stdeploy.models.registry": ("build_model",),
    "stdeploy.train.recipe": ("Recipe",),
    "stdeploy.train.train_model": ("TrainResult", "train_model"),
    "stdeploy.video.live_reader": ("LivePicture", "LiveSource"),
    "stdeploy.video.live_worker": ("Pictures",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "ArtifactError",
    "BackendError",
    "BuildOptions",
    "BuiltEngine",
    "BuiltPackage",
    "ClassifiedVideo",
    "Classifier",
    "ClassifyOptions",
    "ClipSpec",
    "Cost",
    "DatasetError",
    "DownloadError",
    "Evaluation",
    "ExportResult",
    "FuseResult",
    "FusionError",
    "Hooks",
    "ImportResult",
    "ImportedCheckpoint",
    "LiveAnswer",
    "LivePicture",
    "LiveSource",
    "LiveSources",
    "MissingExtraError",
    "ModelCard",
    "ModelSpec",
    "OpenVinoFiles",
    "OwnerAnswer",
    "ParityError",
    "Pictures",
    "Prediction",
    "Recipe",
    "RuntimeOptions",
    "SourceAnswer",
    "SourceStatus",
    "SpecError",
    "StdeployError",
    "Stream",
    "StreamAnswer",
    "StreamOptions",
    "StreamRuntime",
    "Timeline",
    "TimelineOptions",
    "TorchProgram",
    "TrainResult",
    "TrainingError",
    "VideoError",
    "__version__",
    "build_engine",
    "build_model",
    "build_package",
    "count_flops",
    "evaluate",
    "export_float_input",
    "export_onnx",
    "export_openvino",
    "export_stream",
    "export_torch_program",
    "fuse_checkpoint",
    "import_checkpoint",
    "import_network",
    "import_onnx",
    "open_streams",
    "read_card",
    "train_model",
    "verify_onnx",
    "write_triton",
]

# What brings the package that a name needs and the base installation lacks.
_EXTRAS = {
    "build_package": "export",
    "count_flops": "export",
    "export_float_input": "export",
    "export_onnx": "export",
    "export_stream": "export",
    "export_torch_program": "export",
    "fuse_checkpoint": "export",
    "verify_onnx": "export",
    "BuiltPackage": "export",
    "ExportResult": "export",
    "FuseResult": "export",
    "Cost": "export",
}


def __getattr__(name: str) -> Any:
    """Import a name of the front door when it is first used (PEP 562)."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _EXTRAS:
        packages = importlib.import_module("stdeploy.optional_packages")
        packages.require("torch", extra=_EXTRAS[name], purpose=name)
    found = getattr(importlib.import_module(module), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
