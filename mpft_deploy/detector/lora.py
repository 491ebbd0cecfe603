"""Low-rank updates of a tower's matrices in place of the matrices themselves.

LoRA (Hu et al., arXiv 2106.09685) as parametrisations of PyTorch: the tower computes as before, of
weights that are its own plus the product of two thin matrices, which alone are learnt.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

MATRICES = ("in_proj_weight", "out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
"""Of a block: those of attention and of the two layers after it."""


class LowRank(nn.Module):
    """weight + up · down, with `up` 0 at first."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        """Args: weight [out, in] that is updated; rank of the update."""
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.randn(rank, columns, device=weight.device) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


def adapt(tower: nn.Module, rank: int) -> None:
    """Freeze a tower but for updates of that rank of its blocks' matrices."""
    tower.requires_grad_(False)
    for name, weight in list(tower.named_parameters()):
        if name.endswith(MATRICES):
            path, _, own = name.rpartition(".")
            parametrize.register_parametrization(
                tower.get_submodule(path), own, LowRank(weight, rank)
            )


def merged(tower: nn.Module) -> dict[str, torch.Tensor]:
    """A tower's weights by their own names, with the updates added, if there are any."""
    out = {}
    for name, value in tower.state_dict().items():
        path, updated, own = name.partition(".parametrizations.")
        if not updated:
            out[name] = value
        elif own.endswith(".original"):
            own = own.removesuffix(".original")
            out[f"{path}.{own}"] = getattr(tower.get_submodule(path), own).detach()
    return out
