"""Single filters become filters with branches that compute the same at first, and learn more.

The paper trains branches from the start. A network that others have trained has one filter of each
length t: here it becomes the branch of length t, and shorter branches join it whose norms give
zero (gamma = beta = 0) until training moves them.
"""

import torch
from torch import nn

from stdeploy.errors import SpecError
from stdeploy.layers.temporal import TemporalBranch, TemporalFilter, coefficients_from_filter


@torch.no_grad()
def grow_filter(grown: TemporalFilter, parent: TemporalFilter) -> None:
    """Make a filter compute what another one does, in training mode as in evaluation mode.

    Args:
        grown: of the same shape, with all the branches of the parent and perhaps shorter ones, and
            its own eta; changed in place. If one of both alone is causal, it computes the same of
            other frames.
        parent: what it shall compute.

    Raises:
        SpecError: the parent has a branch that the other has not, or an average where eta = inf
            excludes it.
    """
    targets = {branch.coefficients.shape[2]: branch for branch in grown.typed_branches()}
    sources = {branch.coefficients.shape[2]: branch for branch in parent.typed_branches()}
    if not sources.keys() <= targets.keys():
        raise SpecError(
            f"a filter with branches of {sorted(sources)} frames cannot become one of "
            f"{sorted(targets)}; its norms would have to be folded"
        )
    for length, branch in targets.items():
        source = sources.get(length)
        if source is None:
            nn.init.zeros_(branch.norm.weight)
            nn.init.zeros_(branch.norm.bias)
        else:
            _copy(branch, source)


def _copy(branch: TemporalBranch, source: TemporalBranch) -> None:
    """The same filter and norm, with coefficients for another eta."""
    coefficients = source.coefficients.detach()
    if branch.eta != source.eta:
        coefficients = coefficients_from_filter(source.kernel().double(), branch.eta)
    branch.coefficients.copy_(coefficients)
    branch.norm.load_state_dict(source.norm.state_dict())
