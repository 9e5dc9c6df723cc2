"""Which stage catches which fault: faults are planted, and every check is asked.

    stdeploy pull kinetics400-i3d
    stdeploy card kinetics400-i3d.pt --set num_frames=16 --set crop_px=112 --set short_side_px=128
    stdeploy fuse kinetics400-i3d.pt
    stdeploy export                     # and with --precision fp16, int8; and with --trt
    python benchmarks/detection.py kinetics400-i3d.pt

Wants the other artifacts beside the checkpoint; what is not there is left out. Faults of weights
are planted in layers and channels drawn by a seed, the same ones in every kind of file:

- in making: between folding and its comparison, between exporting and the comparison of answers;
- in the golden clip: in a file whose content digest is written anew, as if it had none;
- in the digest: in a file whose digest is left as it was.

An engine needs a GPU to run, so here its digests alone are asked.
"""

import abc
import argparse
import copy
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import nn

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.contents import read_contents
from stdeploy.artifacts.digest import CARD_KEY, DIGEST_FIELD, DIGEST_KEY, OnnxFile, content_sha256
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import FUSED_SUFFIX, sidecar_path
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_backend, open_runtime
from stdeploy.errors import ArtifactError, ParityError
from stdeploy.export.verification import Reference, prove, thresholds
from stdeploy.fusion import filters_of, fuse_model, verify
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import logits_of

ROUNDED = "a layer rounded to fp16"
WEIGHT_FAULTS = (
    "a channel is 0",
    "a channel x 1.1",
    "a channel x 1.01",
    "taps moved by a frame",
    "eps of a norm x 10",
    ROUNDED,
    "the last bit of a weight",
)
CARD_FAULTS = ("two labels swapped", "fps x 2", "short side + 8 px", "mean + 0.02")
NONE = "(no fault)"

# By fault and column: how many were caught, and how many were planted.
Rows = dict[str, dict[str, tuple[int, int]]]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a fault is planted: a layer, one of its output channels, and a weight of that."""

    layer: str
    channel: int
    weight: int


@dataclasses.dataclass
class Layer:
    """The tensors of a layer that a fault may change.

    Attributes:
        weight: (O, I, t, h, w), folded or not; of int8 the quantised numbers.
        scale: (O,), what int8 weights are multiplied by.
        bias: (O,), or None where the norm has it.
    """

    weight: NDArray[Any]
    scale: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None


def plant(fault: str, layer: Layer, place: Place, norm: nn.BatchNorm3d) -> None:
    """Change a layer in place."""
    c, weight = place.channel, layer.weight
    if fault == "a channel is 0":
        weight[c] = 0
    elif fault.startswith("a channel x"):
        (weight if layer.scale is None else layer.scale)[c] *= float(fault.split()[-1])
    elif fault == "taps moved by a frame":
        weight[:] = np.roll(weight, 1, axis=2)
    elif fault == ROUNDED:
        weight[:] = weight.astype(np.float16)
    elif fault == "the last bit of a weight":
        flat = weight[c].reshape(-1)
        if flat.dtype == np.int8:
            flat[place.weight % flat.size] ^= 1
        else:  # of float64, the last bit that float32 keeps
            kind = np.float32 if flat.dtype == np.float64 else flat.dtype.type
            value = kind(flat[place.weight % flat.size])
            flat[place.weight % flat.size] = np.nextafter(value, kind(9))
    elif fault == "eps of a norm x 10":
        variance, eps = norm.running_var.double().numpy(), norm.eps
        factor = np.sqrt((variance + eps) / (variance + 10 * eps))
        if layer.scale is None:
            weight *= factor[:, None, None, None, None].astype(weight.dtype)
        else:
            layer.scale *= factor.astype(layer.scale.dtype)
        if layer.bias is not None:
            beta = norm.bias.detach().numpy()
            layer.bias[:] = (layer.bias - beta) * factor + beta


def with_card_fault(fault: str, card: str) -> str:
    """A card as JSON with one thing wrong."""
    fields = json.loads(card)
    labels, clip = fields["labels"], fields["clip"]
    if fault == "two labels swapped":
        labels[0], labels[1] = labels[1], labels[0]
    elif fault == "fps x 2":
        clip["fps"] *= 2
    elif fault == "short side + 8 px":
        clip["short_side_px"] += 8
    elif fault == "mean + 0.02":
        clip["mean"][0] += 0.02
    return json.dumps(fields)


class Kind(abc.ABC):
    """One kind of file: how a fault gets into it, and who opens it."""

    backend = "torch"

    def __init__(self, source: Path, norms: dict[str, nn.BatchNorm3d]) -> None:
        self.source = source
        self.name = "".join(source.suffixes[-2:]) if ".fused" in source.name else source.suffix
        self.norms = norms
        self.card = read_card(source)
        if source.suffix == ".onnx":
            self.name = f".onnx {self.card.precision}"

    @abc.abstractmethod
    def write(self, target: Path, fault: str, place: Place, *, signed: bool) -> None:
        """Write the file with a fault; `signed` with a digest of what it is now."""

    def answers(self, path: Path) -> bool:
        """Whether the golden clip passes."""
        try:
            open_runtime(path, options=RuntimeOptions(backend=self.backend, device="cpu")).close()
        except ParityError:
            return False
        return True


class Checkpoint(Kind):
    """A .pt file: filters with their norms."""

    def write(self, target: Path, fault: str, place: Place, *, signed: bool) -> None:
        """See `Kind.write`."""
        content = torch.load(self.source, weights_only=True)
        tensors = content["state_dict"]
        if fault in CARD_FAULTS:
            content["card"] = with_card_fault(fault, content["card"])
        elif fault == "eps of a norm x 10":  # the eps itself is in no file
            eps = self.norms[place.layer].eps
            tensors[f"{self._branch(tensors, place)}.norm.running_var"] += 9 * eps
        elif fault != NONE:
            weight = tensors[f"{self._branch(tensors, place)}.coefficients"].numpy()
            plant(fault, Layer(weight), place, self.norms[place.layer])
        torch.save(content, target)
        if signed:
            digest = content_sha256(read_contents(target).parts())
            torch.save({**content, DIGEST_FIELD: digest}, target)

    @staticmethod
    def _branch(tensors: dict[str, torch.Tensor], place: Place) -> str:
        """The longest branch of a layer, which comes last."""
        start = f"{place.layer}.branches."
        return max(
            name.removesuffix(".coefficients")
            for name in tensors
            if name.startswith(start) and name.endswith(".coefficients")
        )


class Fused(Kind):
    """A .fused.safetensors file."""

    def write(self, target: Path, fault: str, place: Place, *, signed: bool) -> None:
        """See `Kind.write`."""
        tensors = load_file(self.source)
        with safe_open(self.source, framework="numpy") as file:
            metadata = file.metadata()
        if fault in CARD_FAULTS:
            metadata[CARD_KEY] = with_card_fault(fault, metadata[CARD_KEY])
        elif fault != NONE:
            weight, bias = (tensors[f"{place.layer}.{part}"] for part in ("weight", "bias"))
            plant(fault, Layer(weight, bias=bias), place, self.norms[place.layer])
        save_file(tensors, target, metadata)
        if signed:
            metadata[DIGEST_KEY] = content_sha256(read_contents(target).parts())
            save_file(tensors, target, metadata)


class Onnx(Kind):
    """An .onnx file of any precision."""

    backend = "onnxruntime"

    def write(self, target: Path, fault: str, place: Place, *, signed: bool) -> None:
        """See `Kind.write`."""
        proto = onnx.load(self.source)
        card = next(prop for prop in proto.metadata_props if prop.key == CARD_KEY)
        if fault in CARD_FAULTS:
            card.value = with_card_fault(fault, card.value)
        elif fault != NONE:
            self._plant(proto, fault, place)
        file = OnnxFile.of(memoryview(proto.SerializeToString()))
        (file.with_card(card.value) if signed else file).write(target)

    def _plant(self, proto: onnx.ModelProto, fault: str, place: Place) -> None:
        stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        weight = f"model.{place.layer}.weight"
        names = {"weight": weight, "bias": f"model.{place.layer}.bias"}
        if weight not in stored:
            names = {**names, "weight": f"{weight}_quantized", "scale": f"{weight}_scale"}
        arrays = {part: numpy_helper.to_array(stored[name]).copy() for part, name in names.items()}
        plant(fault, Layer(**arrays), place, self.norms[place.layer])
        for part, name in names.items():
            stored[name].CopyFrom(numpy_helper.from_array(arrays[part], name))


class Engine(Kind):
    """An .engine with its sidecar; where TensorRT keeps a layer in its plan is not known."""

    def write(self, target: Path, fault: str, place: Place, *, signed: bool) -> None:  # noqa: ARG002
        """See `Kind.write`."""
        plan = bytearray(self.source.read_bytes())
        if fault in WEIGHT_FAULTS:
            plan[(place.weight * 7919) % len(plan)] ^= 1
        target.write_bytes(plan)
        fields = json.loads(sidecar_path(self.source).read_text())
        if fault in CARD_FAULTS:
            fields["card"] = json.loads(with_card_fault(fault, json.dumps(fields["card"])))
        sidecar_path(target).write_text(json.dumps(fields))


def digest_passes(path: Path) -> bool:
    """Whether a file is opened as far as its content is compared."""
    try:
        read_card(path)
        if path.suffix == ".engine":
            EngineSidecar.read(path).read_code(path)
    except ArtifactError:
        return False
    return True


def fusing_passes(model: ActionModel, card: ModelCard, fault: str, place: Place) -> bool:
    """Whether folding with a fault in it passes the comparison of `stdeploy fuse`."""
    fused = fuse_model(model)
    if fault != NONE:
        layer = fused.get_submodule(place.layer)
        norm = dict(filters_of(model))[place.layer].typed_branches()[-1].norm
        with torch.no_grad():
            arrays = Layer(layer.weight.numpy(), bias=layer.bias.numpy())
            plant(fault, arrays, place, norm)
    return all(row.passed for row in verify(model, fused, card.clip, seed=card.golden.seed))


def gate_passes(kind: Kind, reference: Reference, path: Path) -> bool:
    """Whether a graph with a fault in it passes the comparison of answers of `stdeploy export`.

    What the comparison of kernels finds beside it: planted_faults.py.
    """
    options = RuntimeOptions(backend="onnxruntime", device="cpu")
    with open_backend(path, kind.card, options) as runtime:
        return not prove(runtime, reference, thresholds(kind.card.precision, {})).failed


def places(model: ActionModel, fault: str, count: int) -> list[Place]:
    """Layers and channels, drawn by a seed; where taps are to move, of layers with several."""
    rng = np.random.default_rng(2026)
    layers = [
        (name, layer)
        for name, layer in filters_of(model)
        if "taps" not in fault or layer.kernel_size[0] > 1
    ]
    found = []
    for number in rng.choice(len(layers), size=count, replace=False):
        name, layer = layers[number]
        channels = layer.typed_branches()[-1].coefficients.shape[0]
        found.append(Place(name, int(rng.integers(channels)), int(rng.integers(1 << 30))))
    return found


def kinds_beside(checkpoint: Path, norms: dict[str, nn.BatchNorm3d]) -> Iterator[Kind]:
    """The artifacts that were made from a checkpoint."""
    yield Checkpoint(checkpoint, norms)
    if (fused := checkpoint.with_suffix(FUSED_SUFFIX)).exists():
        yield Fused(fused, norms)
    for suffix in (".onnx", ".fp16.onnx", ".int8.onnx"):
        if (path := checkpoint.with_suffix(suffix)).exists():
            yield Onnx(path, norms)
    for path in sorted(checkpoint.parent.glob(f"{checkpoint.stem}.*.engine")):
        yield Engine(path, norms)


class Counts:
    """How many faults of a kind each stage caught, and the tables that say it.

    Args:
        checkpoint: whose artifacts are tried.
        number: of places that each fault of weights is planted in.
        folder: for files with faults.
    """

    def __init__(self, checkpoint: Path, number: int, folder: Path) -> None:
        self._model, self._card = load_model(checkpoint)
        norms = {n: layer.typed_branches()[-1].norm for n, layer in filters_of(self._model)}
        self._kinds = list(kinds_beside(checkpoint, norms))
        self._number, self._folder = number, folder
        fused, clip = fuse_model(self._model).float(), self._card.clip
        self._reference = Reference.of(
            lambda frames: logits_of(fused, clip, frames), self._card, None, lambda *_: None
        )
        self._making: Rows = {}
        self._golden: Rows = {}
        self._digest: Rows = {}

    def run(self, fault: str) -> None:
        """Plant a fault in every kind of file, and ask every stage."""
        in_weights = fault in WEIGHT_FAULTS
        for place in places(self._model, fault, self._number if in_weights else 1):
            if fault not in CARD_FAULTS:
                passed = fusing_passes(copy.deepcopy(self._model), self._card, fault, place)
                _count(self._making, fault, "fusing", passed)
            for kind in self._kinds:
                if kind.card.precision in ("fp16", "int8") and fault == ROUNDED:
                    continue  # rounded already
                self._ask(kind, fault, place)
        stages = {"making": self._making, "golden": self._golden, "digest": self._digest}
        for title, rows in stages.items():
            print(f"{fault}, {title}: {rows.get(fault, {})}", flush=True)

    def _ask(self, kind: Kind, fault: str, place: Place) -> None:
        path = self._folder / kind.source.name
        kind.write(path, fault, place, signed=False)
        _count(self._digest, fault, kind.name, digest_passes(path))
        if isinstance(kind, Engine):
            return
        kind.write(path, fault, place, signed=True)
        _count(self._golden, fault, kind.name, kind.answers(path))
        if isinstance(kind, Onnx) and fault not in CARD_FAULTS:
            passed = gate_passes(kind, self._reference, path)
            _count(self._making, fault, f"export {kind.card.precision}", passed)

    def tables(self) -> Iterator[str]:
        """What was found, in Markdown."""
        names = list(dict.fromkeys(kind.name for kind in self._kinds))
        opened = [name for name in names if name != ".engine"]
        exports = [f"export {k.card.precision}" for k in self._kinds if isinstance(k, Onnx)]
        # A gate that fails without a fault, as int8 may on synthetic clips, says nothing of faults.
        exports = [name for name in exports if self._making[NONE][name][0] == 0]
        yield table("## In making", ["fusing", *exports], self._making)
        yield table("## Opening: the golden clip alone", opened, self._golden)
        yield table("## Opening: the content digest", names, self._digest)


def _count(rows: Rows, fault: str, column: str, passed: bool) -> None:
    caught, tried = rows.setdefault(fault, {}).get(column, (0, 0))
    rows[fault][column] = (caught + (not passed), tried + 1)


def table(title: str, columns: list[str], rows: Rows) -> str:
    """A table of Markdown: caught of planted."""
    lines = [title, "", f"| fault | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for fault, counts in rows.items():
        cells = [f"{counts[n][0]} of {counts[n][1]}" if n in counts else "" for n in columns]
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Plant all faults, and print which stage catches which."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--places", type=int, default=5, help="where each fault is planted")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = Counts(arguments.checkpoint, arguments.places, Path(folder))
        for fault in (NONE, *WEIGHT_FAULTS, *CARD_FAULTS):
            counts.run(fault)
        print("", *counts.tables(), sep="\n\n")


if __name__ == "__main__":
    main()
