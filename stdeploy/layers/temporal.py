"""The spatio-temporal filter of the paper: branches of many lengths, regularised averages.

One `TemporalFilter` computes eq. (2), sum over tau of BatchNorm_tau(conv(x; W_tau)), with
tau in {1, 3, .., t}. Each W_tau is held as the coefficients W~_tau of eq. (6), so that ordinary
weight decay on the parameter is the regulariser of eq. (7). A filter of length 1 makes an
ordinary convolution with batch norm; networks here are built of nothing else.

A causal filter is one that looks back only: each branch ends at the frame that the filter is at,

    y[i] = sum over tau of BatchNorm_tau(sum_j W_tau[j] x[i - tau + 1 + j]),  j = 0 .. tau-1

so the branch of one frame sees the newest frame, as it sees the centre in the paper's filter, and
the sum is one filter of the t frames i-t+1 .. i. Nothing else changes: not the coefficients, nor
the basis, nor eta, because all of them are of a branch by itself.
"""

import functools
import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stdeploy.artifacts.layouts import Size3
from stdeploy.errors import FusionError, SpecError
from stdeploy.layers.convolution import Padding, first_frame_before, single_convolution
from stdeploy.layers.fold import fold_batch_norm, sum_branches

Branches = Literal["single", "multi"]


def branch_lengths(length: int, branches: Branches) -> tuple[int, ...]:
    """Temporal lengths of the branches of a filter.

    >>> branch_lengths(5, "multi"), branch_lengths(5, "single")
    ((1, 3, 5), (5,))

    Raises:
        SpecError: the length is even or not positive.
    """
    if length < 1 or length % 2 == 0:
        raise SpecError(f"temporal length {length} is not odd and positive")
    return tuple(range(1, length + 1, 2)) if branches == "multi" else (length,)


@functools.lru_cache(maxsize=64)
def temporal_basis(
    tau: int,
    eta: float,
    dtype: torch.dtype = torch.float64,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a constant, not state
) -> Tensor:
    """The basis [mu / eta, U_perp] of eq. (6), which turns coefficients into a filter.

    U_perp is the rest of the orthonormal cosine basis (DCT-II): mu is the average filter, the
    next two columns are the 1st and 2nd differential of the paper's figure 1 (up to sign).

    NOTE: a filter of length 1 has no complement U_perp, so that dividing it by eta would
    only rescale it, and eta = inf would erase it; it is left alone.

    Args:
        tau: temporal length.
        eta: regularisation of the average, 1..inf.
        dtype: of the result; it is computed in float64.
        device: of the result.

    Returns:
        (tau, tau); rows are frames, columns are basis filters.
    """
    # Cached, so it may be made inside inference mode and used by autograd later.
    with torch.inference_mode(False):
        frame = torch.arange(tau, dtype=torch.float64).unsqueeze(1)
        order = torch.arange(tau, dtype=torch.float64).unsqueeze(0)
        basis = torch.cos(math.pi * (frame + 0.5) * order / tau) * math.sqrt(2.0 / tau)
        basis[:, 0] = 1.0 / math.sqrt(tau)
        if tau > 1:
            basis[:, 0] /= eta
        return basis.to(dtype=dtype, device=device)


def filter_from_coefficients(coefficients: Tensor, eta: float) -> Tensor:
    """Eq. (6): W = [mu / eta, U_perp] W~, along the temporal axis.

    It is computed in the type of the coefficients under autocast too. Rounded to bf16, filters
    would be off by 2e-3, and eta = inf would leave a little of the average.

    Args:
        coefficients: W~, (C_out, C_in, tau, kH, kW).
        eta: regularisation of the average, 1..inf.

    Returns:
        W, of the same shape and type.
    """
    tau = coefficients.shape[2]
    if tau == 1:
        return coefficients
    # torch.compile looks through a cache, and warns of it.
    of = temporal_basis.__wrapped__ if torch.compiler.is_dynamo_compiling() else temporal_basis
    basis = of(tau, eta, coefficients.dtype, coefficients.device)
    device = coefficients.device.type
    # Asked first, so that exported graphs of networks without autocast hold no switch of it.
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return _along_time(basis, coefficients)
    return _along_time(basis, coefficients)


def _along_time(matrix: Tensor, weight: Tensor) -> Tensor:
    """Multiply a matrix (rows, tau) with the temporal axis of (C_out, C_in, tau, kH, kW)."""
    return torch.einsum("ts,oishw->oithw", matrix, weight)


def coefficients_from_filter(weight: Tensor, eta: float) -> Tensor:
    """The inverse of eq. (6): the coefficients W~ that make a filter.

    Args:
        weight: W, (C_out, C_in, tau, kH, kW).
        eta: regularisation of the average, finite unless tau is 1.

    Returns:
        W~, of the same shape and type.

    Raises:
        SpecError: eta = inf, with which no filter with an average can be made.
    """
    tau = weight.shape[2]
    if tau == 1:
        return weight
    if math.isinf(eta):
        raise SpecError(
            "eta = inf excludes the average, so a filter that has one cannot be represented; "
            "use a finite eta"
        )
    inverse = torch.linalg.inv(temporal_basis(tau, eta)).to(weight)
    return _along_time(inverse, weight)


class TemporalBranch(nn.Module):
    """One branch: convolution with W_tau, then batch norm.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: (tau, kH, kW).
        stride: (sT, sH, sW).
        padding: zeros on both sides of (T, H, W).
        frames_before: how often the first frame comes before the clip.
        eta: regularisation of the average, 1..inf.
        eps: added to the variance by the norm.
        groups: of channels, each of which sees its own alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        *,
        stride: Size3,
        padding: Size3,
        frames_before: int = 0,
        eta: float,
        eps: float,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = padding
        self.frames_before = frames_before
        self.eta = eta
        self.groups = groups
        self.coefficients = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *kernel_size)
        )
        self.norm = nn.BatchNorm3d(out_channels, eps=eps)
        nn.init.kaiming_normal_(self.coefficients, mode="fan_out", nonlinearity="relu")

    def kernel(self) -> Tensor:
        """W_tau of eq. (6), (C_out, C_in, tau, kH, kW)."""
        return filter_from_coefficients(self.coefficients, self.eta)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C_out, T', H', W')."""
        out = functional.conv3d(
            first_frame_before(x, self.frames_before),
            self.kernel(),
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
        )
        normalised: Tensor = self.norm(out)
        return normalised

    def folded(self) -> tuple[Tensor, Tensor]:
        """This branch as one kernel and one bias, both float64."""
        kernel = filter_from_coefficients(self.coefficients.detach().double(), self.eta)
        return fold_batch_norm(kernel, self.norm)


class TemporalFilter(nn.Module):
    """A t x kH x kW convolution with batch norm, as a sum of branches (eq. 2).

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: (t, kH, kW), t odd.
        stride: (sT, sH, sW).
        branches: "multi" has a branch for each of 1, 3, .., t; "single" one of length t.
        eta: regularisation of the average, 1..inf.
        padding: "centred" pads with zeros so that the filter is centred on its frame and pixel;
            "valid" pads nothing (the caller has padded), and short branches see the frames
            around the centre of the longest.
        causal: it looks back only: the first frame stands before the clip, and all branches end
            at the same frame, see above.
        eps: added to the variance by the norms.
        groups: of channels, each of which sees its own alone; it divides C_in and C_out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        *,
        stride: Size3 = (1, 1, 1),
        branches: Branches = "single",
        eta: float = 1.0,
        padding: Padding = "centred",
        causal: bool = False,
        eps: float = 1e-5,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.groups = groups
        self.stride = stride
        self.padding: Padding = padding
        self.causal = causal
        length, *spatial = kernel_size
        padded = padding == "centred"
        pad_space = [k // 2 if padded else 0 for k in spatial]
        self.branches = nn.ModuleList(
            TemporalBranch(
                in_channels,
                out_channels,
                (tau, spatial[0], spatial[1]),
                stride=stride,
                padding=(tau // 2 if padded and not causal else 0, pad_space[0], pad_space[1]),
                frames_before=tau - 1 if padded and causal else 0,
                eta=eta,
                eps=eps,
                groups=groups,
            )
            for tau in branch_lengths(length, branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C_out, T', H', W')."""
        out: Tensor | None = None
        for branch in self.typed_branches():
            # Without padding, a short branch must skip the frames that only longer ones see.
            unseen = self.kernel_size[0] - branch.coefficients.shape[2]
            unseen = unseen if self.padding == "valid" else 0
            behind = 0 if self.causal else unseen // 2
            part = branch(x[:, :, unseen - behind : x.shape[2] - behind])
            out = part if out is None else out + part
        assert out is not None
        return out

    def fold(self) -> nn.Conv3d:
        """The same map as one convolution with bias (evaluation mode), in float64.

        Returns:
            A new convolution with kernel (C_out, C_in, t, kH, kW); this module is not changed.

        Raises:
            FusionError: the module is in training mode.
        """
        if self.training:
            raise FusionError(
                "a filter in training mode normalises with batch statistics, which no kernel "
                "can hold; call model.eval() first"
            )
        branches = [branch.folded() for branch in self.typed_branches()]
        kernel, bias = sum_branches(branches, causal=self.causal)
        conv = single_convolution(
            kernel.shape[1] * self.groups,
            kernel.shape[0],
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            causal=self.causal,
            groups=self.groups,
            device="meta",  # no memory, no random numbers: its weights are these
        )
        conv.weight, conv.bias = nn.Parameter(kernel.contiguous()), nn.Parameter(bias)
        return conv.eval()

    def typed_branches(self) -> list[TemporalBranch]:
        """The branches, shortest first, as what they are."""
        return [cast(TemporalBranch, branch) for branch in self.branches]

    def extra_repr(self) -> str:
        """What torch prints in the brackets of the module."""
        causal = ", causal" if self.causal else ""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, {self.padding}{causal}"
