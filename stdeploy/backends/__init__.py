"""Running artifacts: one contract, one backend a file, and what they may not do."""

import os
import sys

# Nothing that runs here is reported to the makers of the libraries: ONNX Runtime has a switch, and
# OpenVINO does without its reporter where that cannot be imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
