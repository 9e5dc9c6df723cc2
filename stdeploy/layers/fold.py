"""Folding, as pure arithmetic on kernels (C_out, C_in, kT, kH, kW) and biases (C_out,).

Everything is computed in float64: a chain of fifty folded layers in float32 loses digits that
the verification would then have to forgive.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stdeploy.errors import FusionError


def fold_batch_norm(weight: Tensor, norm: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Fold an evaluation-mode batch norm into the bias-free convolution before it.

    W' = W * gamma / sqrt(var + eps);  b' = beta - mean * gamma / sqrt(var + eps)

    Args:
        weight: kernel, (C_out, C_in, kT, kH, kW).
        norm: the norm over its C_out channels.

    Returns:
        Kernel of the same shape, and bias (C_out,), both float64.

    Raises:
        FusionError: the norm is in training mode or keeps no running statistics.
    """
    if norm.training:
        raise FusionError("a batch norm in training mode cannot be folded; call model.eval() first")
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise FusionError("a batch norm without running statistics cannot be folded")
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.detach()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach()
    scale = gamma.double() / torch.sqrt(variance.double() + norm.eps)
    kernel = weight.detach().double() * scale.reshape(-1, 1, 1, 1, 1)
    return kernel, beta.double() - mean.double() * scale


def pad_in_time(weight: Tensor, length: int, *, causal: bool = False) -> Tensor:
    """Put a kernel into a longer one, with zeros before and after in time.

    A kernel [a, b, c] becomes [0, a, b, c, 0] for length 5; [0, 0, a, b, c] if it is causal.

    Args:
        weight: (C_out, C_in, tau, kH, kW).
        length: temporal length of the result; at least tau and of the same parity.
        causal: both end at the same frame, instead of having the same centre.

    Returns:
        (C_out, C_in, length, kH, kW).

    Raises:
        FusionError: the longer kernel has no frame where the centre of the shorter could go.
    """
    missing = length - weight.shape[2]
    if missing < 0 or missing % 2:
        raise FusionError(
            f"a kernel of {weight.shape[2]} frames cannot be centred in one of {length}"
        )
    behind = 0 if causal else missing // 2
    return functional.pad(weight, (0, 0, 0, 0, missing - behind, behind))


def sum_branches(
    branches: Sequence[tuple[Tensor, Tensor]], *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Add parallel convolutions of several temporal lengths up to one (footnote 1 of the paper).

    W = sum over tau of pad(W_tau);  b = sum over tau of b_tau

    Args:
        branches: kernels (C_out, C_in, tau, kH, kW), alike but for tau, with biases (C_out,).
        causal: all end at the same frame; see `pad_in_time`.

    Returns:
        Kernel (C_out, C_in, max tau, kH, kW) and bias (C_out,).
    """
    length = max(kernel.shape[2] for kernel, _ in branches)
    kernels = (pad_in_time(kernel, length, causal=causal) for kernel, _ in branches)
    # One after another: together they would take as much memory again for each branch.
    kernel = functools.reduce(torch.add, kernels)
    bias = functools.reduce(torch.add, (bias for _, bias in branches))
    return kernel, bias
