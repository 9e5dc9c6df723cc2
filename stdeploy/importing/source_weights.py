"""The weights of another project by their names there, and which of them have been taken."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from stdeploy.errors import SpecError
from stdeploy.layers.temporal import coefficients_from_filter

Tensors = dict[str, Tensor]
# Not a part of what a network computes.
_COUNTER = "num_batches_tracked"


class MismatchError(SpecError):
    """Weights that are not those of the network that they are read as."""


class SourceWeights:
    """Weights of another project; remembers what was taken, so that nothing is left over unseen.

    Args:
        tensors: by their names.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = {n: t for n, t in tensors.items() if not n.endswith(_COUNTER)}
        self._taken: set[str] = set()

    def extend_in_time(self) -> None:
        """Take 2D convolutions, (C_out, C_in, kH, kW), for 3D ones of one frame."""
        self._tensors = {
            name: tensor.unsqueeze(2) if tensor.dim() == 4 else tensor
            for name, tensor in self._tensors.items()
        }

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not thereby taken.

        Raises:
            MismatchError: there is none of this name.
        """
        return tuple(self._tensor(name).shape)

    def kernel_shape(self, conv: str) -> tuple[int, int, int, int, int]:
        """(C_out, C_in / groups, t, kH, kW) of a convolution.

        Args:
            conv: its name without ".weight".

        Raises:
            MismatchError: there is none, or it is no 3D convolution.
        """
        shape = self.shape(f"{conv}.weight")
        if len(shape) != 5:
            raise MismatchError(f"{conv}.weight has shape {shape}, which is no 3D convolution")
        return shape[0], shape[1], shape[2], shape[3], shape[4]

    def out_channels(self, layer: str) -> int:
        """C_out of a convolution or a linear layer.

        Args:
            layer: its name without ".weight".

        Raises:
            MismatchError: there is none, or its weight is a single number.
        """
        shape = self.shape(f"{layer}.weight")
        if not shape:
            raise MismatchError(f"{layer}.weight is a single number")
        return shape[0]

    def take(self, name: str) -> Tensor:
        """A tensor in float32.

        Raises:
            MismatchError: there is none of this name, or it is quantised, complex or empty.
        """
        tensor = self._tensor(name)
        if not tensor.is_floating_point() or not tensor.numel():
            raise MismatchError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}; floating-point numbers are wanted"
            )
        self._taken.add(name)
        return tensor.detach().float()

    def left(self) -> list[str]:
        """The names that were not taken."""
        return [name for name in self._tensors if name not in self._taken]

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise MismatchError(f"{name} is missing")
        return self._tensors[name]


@dataclasses.dataclass(frozen=True)
class ConvNorm:
    """What another project calls a convolution and the norm after it, without ".weight".

    Attributes:
        conv: of the convolution.
        norm: of the norm; None where there is none.
    """

    conv: str
    norm: str | None

    def named(self, **fields: object) -> "ConvNorm":
        """Patterns such as "{block}.conv{n}" with their fields put in."""
        return ConvNorm(
            self.conv.format(**fields), None if self.norm is None else self.norm.format(**fields)
        )


def filter_weights(
    weights: SourceWeights, ours: str, theirs: ConvNorm, *, eps: float = 0.0
) -> Tensors:
    """The tensors of a `TemporalFilter` with one branch and eta = 1 that computes the same.

    A bias of the convolution goes into the mean of the norm, from which it is subtracted. Where
    there is no norm, one that changes nothing stands in its place.

    Args:
        weights: of the other project.
        ours: name of the filter in our network.
        theirs: names in the other one.
        eps: that our norm adds to the variance; only needed where there is no norm.

    Raises:
        MismatchError: a tensor is missing, or the kernel is none.
    """
    branch = f"{ours}.branches.0"
    kernel = weights.take(f"{theirs.conv}.weight")
    if kernel.dim() == 2:  # a linear layer: the same over pooled features
        kernel = kernel[:, :, None, None, None]
    if kernel.dim() != 5:
        raise MismatchError(
            f"{theirs.conv}.weight has shape {tuple(kernel.shape)}, which is no 3D convolution"
        )
    if theirs.norm is None:
        zeros = torch.zeros(kernel.shape[0])
        ones = torch.ones(kernel.shape[0])
        norm = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones - eps}
    else:
        names = ("weight", "bias", "running_mean", "running_var")
        norm = {name: weights.take(f"{theirs.norm}.{name}") for name in names}
    if f"{theirs.conv}.bias" in weights:
        bias, mean = weights.take(f"{theirs.conv}.bias"), norm["running_mean"]
        if bias.shape != mean.shape:
            raise MismatchError(
                f"{theirs.conv}.bias has shape {tuple(bias.shape)}, not {tuple(mean.shape)}"
            )
        norm["running_mean"] = mean - bias
    return {
        f"{branch}.coefficients": coefficients_from_filter(kernel, 1.0),
        **{f"{branch}.norm.{name}": tensor for name, tensor in norm.items()},
    }


def classifier_weights(weights: SourceWeights, theirs: str) -> Tensors:
    """The tensors of our head's classifier.

    Args:
        weights: of the other project.
        theirs: name of the linear layer there, without ".weight".

    Raises:
        MismatchError: a tensor is missing, or has another shape.
    """
    weight = weights.take(f"{theirs}.weight")
    if weight.dim() > 2 and set(weight.shape[2:]) == {1}:
        weight = weight.flatten(1)  # a 1x1x1 convolution over pooled features
    if weight.dim() != 2:
        raise MismatchError(f"{theirs}.weight has shape {tuple(weight.shape)}; (K, C) is wanted")
    return {
        "head.classifier.weight": weight,
        "head.classifier.bias": weights.take(f"{theirs}.bias"),
    }
