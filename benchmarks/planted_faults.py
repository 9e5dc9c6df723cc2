"""Faults planted in exported files, in one channel of one layer: how many are caught, and by what.

    PYTHONPATH=. python benchmarks/planted_faults.py

A small network with random batch-norm statistics (I3D-ResNet-18, a quarter as wide) is fused and
exported in every precision. Each fault is planted in 20 places, drawn by a seed and the same in
every precision, between writing a file and verifying it:

- answers alone: the comparison of logits on synthetic and calibration clips, which was all of the
  gate of `stdeploy export` before;
- with the kernels: that gate with the comparison of kernels, see `stdeploy.export.kernels`;
- opening: a file with the fault, whose content digest is written anew, as somebody would who
  changes it on purpose; its golden clip is replayed.

An eps x 10 is made before folding, so beside it stands what `stdeploy fuse` says of it.
"""

import argparse
import collections
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.digest import OnnxFile
from stdeploy.artifacts.files import onnx_path
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ParityError
from stdeploy.export.calibration import named_videos, read_calibration
from stdeploy.export.kernels import deviations
from stdeploy.export.layers import NetworkLayers, layers_of
from stdeploy.export.onnx import export_onnx
from stdeploy.export.verification import Reference, prove_file, prover, thresholds
from stdeploy.fusion import filters_of, fuse_model, verify
from stdeploy.hardware import cpu_emulates_bf16
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import save_fused
from stdeploy.models.frames_to_logits import logits_of
from tests.helpers.models import TINY_CLIP, card_of, tiny_model
from tests.helpers.onnx_faults import (
    CHANNEL_FAULTS,
    Place,
    array_of,
    places,
    plant,
    replace,
    stored_weight,
)
from tests.helpers.videos import write_golden_videos

EPS, ROUNDED, NONE = "eps of a norm x 10", "a layer rounded to fp16", "(no fault)"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
COLUMNS = ("answers alone", "with the kernels", "opening")
# The best classes of a random network lie so near each other that any rounding swaps them.
ALLOW = {"top1_changed": 1.0}

Counts = dict[str, tuple[int, int]]


def norms_of(model: ActionModel, layer: str) -> list[nn.BatchNorm3d]:
    """The norms of all branches of a layer."""
    return [branch.norm for branch in dict(filters_of(model))[layer].typed_branches()]


def with_wrong_eps(model: ActionModel, layer: str) -> ActionModel:
    """The network fused with ten times the eps in the norms of one layer."""
    wrong = copy.deepcopy(model)
    for norm in norms_of(wrong, layer):
        norm.eps *= 10
    return fuse_model(wrong)


def plant_in_file(proto: onnx.ModelProto, fault: str, place: Place, wrong: ActionModel) -> None:
    """Change a graph in place.

    Args:
        proto: in any precision.
        fault: one of `tests.helpers.onnx_faults`, EPS, ROUNDED or NONE.
        place: where.
        wrong: the network fused with a wrong eps there.
    """
    weight = stored_weight(proto, place.layer)
    if fault in CHANNEL_FAULTS:
        plant(proto, fault, place)
    elif fault == ROUNDED:
        replace(proto, weight, array_of(proto, weight).astype(np.float16).astype(np.float32))
    elif fault == EPS:
        layer = wrong.get_submodule(place.layer)
        kernel = layer.weight.detach().float().numpy()
        stored = array_of(proto, weight)
        if stored.dtype == np.int8:  # its integers stay, since its steps follow the kernel
            most = np.abs(kernel).reshape(len(kernel), -1).max(axis=1)
            fullest = np.abs(stored.astype(np.int16)).reshape(len(kernel), -1).max(axis=1)
            replace(proto, weight.replace("_quantized", "_scale"), most / fullest)
        else:
            replace(proto, weight, kernel.astype(stored.dtype))
        bias = f"model.{place.layer}.bias"
        new = layer.bias.detach().float().numpy().astype(array_of(proto, bias).dtype)
        replace(proto, bias, new)


class Files:
    """The files of one network, and every check that they can be put to.

    Args:
        folder: for the files.
        width: of the network.
    """

    def __init__(self, folder: Path, width: float) -> None:
        self.model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5), width=width)
        fused = fuse_model(self.model).float()
        self._card = card_of(fused)
        self._folder = folder
        self._fused_file = folder / "a.fused.safetensors"
        save_fused(self._fused_file, fused, self._card)
        self._clips = write_golden_videos(folder / "clips", count=8)
        self._layers: NetworkLayers = layers_of(fused, TINY_CLIP)
        clips = read_calibration(named_videos(self._clips), TINY_CLIP, max_clips=8, hold_out=True)
        self._reference = Reference.of(
            lambda frames: logits_of(fused, TINY_CLIP, frames),
            self._card,
            clips.frames,
            lambda *_: None,
            for_ranges=len(clips.for_ranges),
        )

    def export(self, precision: Precision) -> ModelCard:
        """Write the honest file."""
        return export_onnx(
            self._fused_file, precision=precision, calibrate=self._clips, allow=ALLOW
        ).card

    def caught(
        self, precision: Precision, change: Callable[[onnx.ModelProto], None]
    ) -> Iterator[tuple[str, bool]]:
        """What each check says about the file with a change: whether it refuses it."""
        honest = onnx_path(self._fused_file, precision)
        card = read_card(honest)
        proto = onnx.load(honest)
        change(proto)
        del proto.metadata_props[:]
        path = self._folder / "altered.onnx"
        OnnxFile.of(memoryview(proto.SerializeToString())).with_card(card.to_json()).write(path)
        answers, kernels, opening = (
            bool(self._failed(path, card)),
            bool(deviations(path, self._layers)),
            not opens(path, precision),
        )
        yield from zip(COLUMNS, (answers, answers or kernels, opening), strict=True)

    def _failed(self, path: Path, card: ModelCard) -> bool:
        allowed = thresholds(card.precision, ALLOW if card.precision != "fp32" else {})
        options = prover(card.precision)
        proof = prove_file(path, card, self._reference, allowed, options, lambda *_: None)
        return bool(proof.failed)


def opens(path: Path, precision: Precision) -> bool:
    """Whether a file is opened: its digest is right, and its golden clip is answered."""
    try:
        open_runtime(path, options=prover(precision)).close()
    except ParityError:
        return False
    return True


def fusing_catches(model: ActionModel, wrong: ActionModel) -> bool:
    """Whether the comparison of `stdeploy fuse` refuses a network folded with a wrong eps."""
    rows = verify(model, wrong, TINY_CLIP, seed=2026)
    return not all(row.passed for row in rows)


def faults_of(precision: Precision) -> tuple[str, ...]:
    """What can be planted: what is rounded to 16 bits or fewer is not rounded to fp16 again."""
    rounded = (ROUNDED,) if precision == "fp32" else ()
    return (NONE, *CHANNEL_FAULTS, EPS, *rounded)


def table(precision: Precision, rows: dict[str, Counts]) -> str:
    """A table of Markdown: caught of planted."""
    lines = [
        f"### {precision}",
        "",
        f"| fault | {' | '.join(COLUMNS)} |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for fault, counts in rows.items():
        cells = (f"{counts[column][0]} of {counts[column][1]}" for column in COLUMNS)
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Plant all faults in all precisions, and print tables of what was caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, default=20, help="where each fault is planted")
    parser.add_argument("--width", type=float, default=0.25, help="of the network")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder), arguments.width)
        spots = places(files.model, EPS, count=arguments.places)
        wrong = {place.layer: with_wrong_eps(files.model, place.layer) for place in spots}
        found = sum(fusing_catches(files.model, wrong[place.layer]) for place in spots)
        print(f"fusing catches an {EPS} in {found} of {len(spots)} places\n", flush=True)
        for precision in PRECISIONS:
            if precision == "bf16" and not cpu_emulates_bf16():
                continue
            card = files.export(precision)
            rows: dict[str, Counts] = {}
            for fault in faults_of(precision):
                counts = collections.Counter[str]()
                spots = places(files.model, fault, count=1 if fault == NONE else arguments.places)
                for place in spots:

                    def change(
                        proto: onnx.ModelProto, fault: str = fault, place: Place = place
                    ) -> None:
                        plant_in_file(proto, fault, place, wrong.get(place.layer, files.model))

                    for column, refused in files.caught(precision, change):
                        counts[column] += refused
                rows[fault] = {column: (counts[column], len(spots)) for column in COLUMNS}
            print(table(precision, rows), end="\n\n", flush=True)
            if card.kept:
                print(f"Kept in fp32: {', '.join(card.kept)}.\n", flush=True)


if __name__ == "__main__":
    main()
