"""The numbers in an .onnx file against those of the network that it was made from.

What a comparison of answers leaves room for, because lower precision answers a little differently,
this one does not: each weight may be off by its own rounding and no more. No network runs for it.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ParityRow
from stdeploy.artifacts.parity import quantisation_bound, rounding_bound
from stdeploy.artifacts.spec import Precision
from stdeploy.errors import ParityError
from stdeploy.export.layers import FRAMES, Layer, NetworkLayers, Numbers, Window
from stdeploy.export.onnx_layers import read_layers

_PRECISIONS: dict[str, Precision] = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
}


@dataclasses.dataclass(frozen=True)
class Deviation:
    """What is not in a file as it is in its parent.

    Attributes:
        layer: such as "conv3.0.conv1"; "frames" for what is done to pixels.
        channel: of its output, from 0; None where it is not about one.
        text: what is wrong, to follow the name of the place.
    """

    layer: str
    channel: int | None
    text: str

    @property
    def place(self) -> str:
        """Layer and channel in words."""
        if self.layer == FRAMES:
            return f"colour {self.channel} of the frames"
        channel = "" if self.channel is None else f", channel {self.channel},"
        return f"layer {self.layer!r}{channel}"


def deviations(path: Path, parent: NetworkLayers) -> list[Deviation]:
    """All that stands otherwise in an .onnx file than rounding alone explains.

    Compared are the kernels and biases of all convolutions and of the classifier, channel by
    channel and as they are stored (int8 dequantised, fp16 and bf16 widened); strides, padding,
    dilations and groups of convolutions and max pools; which layers each one reads; and the
    constants that normalise the frames. The ranges of int8 are not: its parent has none.

    Args:
        path: the file.
        parent: from `layers_of`.

    Returns:
        Those of one layer after the other, in the order in which they run; a layer's worst channel
        first.

    Raises:
        ParityError: layers of one have no counterpart in the other, see `read_layers`.
    """
    file = read_layers(path, parent)
    stored = {layer.name: layer for layer in file.layers}
    found = [
        Deviation(FRAMES, colour, f"the {what} of the pixels is {ours:g}, not {wanted:g}")
        for what, actual, expected in (
            ("scale", file.scale, parent.scale),
            ("offset", file.offset, parent.offset),
        )
        for colour, ours, wanted in _unequal(actual, expected)
    ]
    for layer in parent.layers:
        found += _of_layer(layer, stored[layer.name])
    return [*found, *_of_pools(parent, file)]


def check_kernels(
    path: Path, parent: NetworkLayers, precision: Precision, *, source: str, outcome: str
) -> ParityRow:
    """Compare an .onnx file with its parent, see `deviations`.

    Args:
        path: the file.
        parent: from `layers_of`.
        precision: of the file.
        source: what is compared, as the subject of a sentence.
        outcome: what follows from a failure.

    Returns:
        A row for its card.

    Raises:
        ParityError: something deviates; it names the layer and the channel.
    """
    found = deviations(path, parent)
    if found:
        others = len(found) - 1
        more = f" (and {others} more like it)" if others else ""
        raise ParityError(
            f"{source} holds other numbers than its parent: in {found[0].place} {found[0].text}"
            f"{more}; {outcome}"
        )
    channels = sum(len(layer.weight.stored) for layer in parent.layers)
    return ParityRow(
        check="kernels, channels beyond rounding",
        precision=precision,
        error=0.0,
        tolerance=0.0,
        detail=f"{channels} channels of {len(parent.layers)} layers",
    )


def _of_layer(parent: Layer, file: Layer) -> Iterator[Deviation]:
    if parent.weight.stored.shape != file.weight.stored.shape:
        shapes = [_by(layer.weight.stored.shape) for layer in (file, parent)]
        yield Deviation(parent.name, None, f"its kernel has shape {shapes[0]}, not {shapes[1]}")
        return
    yield from _of_numbers(parent.name, "kernel", parent.weight, file.weight)
    yield from _of_bias(parent, file)
    yield from _of_window(parent, file)
    if file.stacked != parent.stacked:
        stops = [
            "; ".join(f"{first}, {second}, ..." for first, second, *_ in each) or "each by itself"
            for each in (file.stacked, parent.stacked)
        ]
        yield Deviation(parent.name, None, f"it sees frames {stops[0]}, not {stops[1]}")
    if file.inputs != parent.inputs:
        read = [", ".join(sorted(layer.inputs)) or "nothing" for layer in (file, parent)]
        yield Deviation(parent.name, None, f"it reads {read[0]}, not {read[1]}")


def _of_bias(parent: Layer, file: Layer) -> Iterator[Deviation]:
    if parent.bias is None or file.bias is None:
        # Without a bias is with one of 0.
        present = parent.bias or file.bias
        if present is not None and present.values().any():
            yield Deviation(parent.name, None, "one of the two has no bias")
    elif parent.bias.stored.shape != file.bias.stored.shape:
        shapes = [_by(bias.stored.shape) for bias in (file.bias, parent.bias)]
        yield Deviation(parent.name, None, f"its bias has shape {shapes[0]}, not {shapes[1]}")
    else:
        yield from _of_numbers(parent.name, "bias", parent.bias, file.bias)


def _of_numbers(name: str, what: str, parent: Numbers, file: Numbers) -> Iterator[Deviation]:
    """Channels of a tensor that rounding does not explain, the worst first."""
    precision = _PRECISIONS.get(file.stored.dtype.name)
    if precision is None or (precision == "int8") != (file.step is not None):
        yield Deviation(name, None, f"its {what} is stored as {file.stored.dtype.name}")
        return
    if precision == "fp32" and np.array_equal(parent.stored, file.stored):
        return  # what most layers of a float32 file are, without a copy of them
    exact = parent.values()
    if file.step is None:
        bound = rounding_bound(exact, precision)
    elif file.step.size not in (1, len(exact)) or (file.step.size > 1 and file.axis != 0):
        yield Deviation(name, None, f"its {what} has no step for each output channel")
        return
    else:
        bound = quantisation_bound(exact, file.step)
    off = np.abs(exact - file.values())
    # Not `off > bound`, which is no answer for what is not a number.
    beyond = ~(off <= bound)
    if not beyond.any():
        return
    worst = np.where(beyond, np.nan_to_num(off, nan=np.inf), -1.0)
    by_channel = worst.reshape(len(exact), -1)
    largest = by_channel.max(axis=1)
    for channel in np.argsort(-largest, kind="stable"):
        if largest[channel] < 0:
            return
        place = by_channel[channel].argmax()
        most = np.broadcast_to(bound, exact.shape).reshape(len(exact), -1)[channel, place]
        reason = f"rounding to {precision} explains {most:.1e}" if most else "it has to be equal"
        text = f"its {what} is off by {largest[channel]:.1e}, {reason}"
        yield Deviation(name, int(channel), text)


def _of_window(parent: Layer, file: Layer) -> Iterator[Deviation]:
    if parent.window is None or file.window is None:
        if parent.window is not file.window:
            yield Deviation(parent.name, None, "it is no layer of the same kind")
        return
    theirs, ours = _described(parent.window), _described(file.window)
    for what, value in ours.items():
        if value != theirs[what]:
            yield Deviation(parent.name, None, f"its {what} is {value}, not {theirs[what]}")


def _of_pools(parent: NetworkLayers, file: NetworkLayers) -> Iterator[Deviation]:
    """Pools that only one of them has; they have no names, but a window and what they read."""
    surplus = Counter(file.pools) - Counter(parent.pools)
    missing = Counter(parent.pools) - Counter(file.pools)
    for pool in surplus or missing:
        window = ", ".join(f"{what} {value}" for what, value in _described(pool.window).items())
        place = "+".join(sorted(pool.inputs))
        whose = "the file alone has" if surplus else "the file lacks"
        yield Deviation(place, None, f"{whose} a max pool behind it of {window}")


def _unequal(
    actual: NDArray[np.float32], expected: NDArray[np.float32]
) -> list[tuple[int, float, float]]:
    """Where two rows of constants differ: the place and both numbers."""
    if actual.shape != expected.shape:
        return [(0, float("nan"), float(expected[0]))]
    pairs = zip(actual.tolist(), expected.tolist(), strict=True)
    return [(place, a, b) for place, (a, b) in enumerate(pairs) if a != b]


def _described(window: Window) -> dict[str, str]:
    return {
        "extent": _by(window.kernel),
        "stride": _by(window.stride),
        "padding": f"{_by(window.padding.before)} before and {_by(window.padding.after)} behind",
        "dilation": _by(window.dilation),
        "number of groups": str(window.groups),
    }


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
