"""Files that lie beside this one, because what makes them is not installed everywhere."""

from pathlib import Path

TINY_ONNX = Path(__file__).with_name("tiny.onnx")
