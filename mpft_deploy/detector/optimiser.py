"""At which rates a detector's weights are learnt, by timm's groups and schedule."""

from __future__ import annotations

import math

import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from mpft_deploy.detector.model import Detector
from mpft_deploy.detector.settings import TrainSettings

WEIGHT_DECAY = 0.01
BETAS, EPS = (0.9, 0.98), 1e-6
"""Of AdamW, as CLIP's transformers were trained (arXiv 2103.00020)."""
WARM_UP = 0.3
"""Share of the steps in which the learning rate rises."""


class Tower(nn.Module):
    """What the processes share the work of: from patches to features. The head sees all of them."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.visual, self._features = model.visual, model.features
        # The head's normalisation takes them out: their gradient is rounding, and AdamW would make
        # steps of that.
        self.visual.ln_post.bias.requires_grad_(False)
        if self.visual.proj is None:
            self.visual.ln_post.weight.requires_grad_(False)

    def forward(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """As `Detector.features`."""
        return self._features(patches, positions)

    def group_matcher(self, coarse: bool) -> dict[str, str]:
        """By which timm tells the layers, the first ones first."""
        return {
            "stem": r"visual\.(?:class_embedding|positional_embedding|conv1|ln_pre)",
            "blocks": r"visual\.transformer\.resblocks\.(\d+)",
            "last": r"visual\.(?:ln_post|proj)",
        }


def optimise(tower: Tower, head: nn.Linear, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW with separate rates for tower and head; vectors (norms, biases) do not decay.

    From the last block to the first the tower's rate shrinks by `layer_decay` each (as for ELECTRA,
    arXiv 2003.10555): early blocks see what all images share.
    """
    groups = [
        *param_groups_layer_decay(tower, WEIGHT_DECAY, layer_decay=settings.layer_decay),
        {"params": [head.weight], "lr": settings.head_lr, "weight_decay": WEIGHT_DECAY},
        {"params": [head.bias], "lr": settings.head_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, settings.backbone_lr, BETAS, EPS, fused=True)


def schedule(optimiser: torch.optim.Optimizer, steps: int) -> CosineLRScheduler:
    """The rates rise evenly, then fall by half a cosine to almost 0.

    They follow from the step that it is told, so that it keeps nothing from one to the next.
    """
    warm_up = math.ceil(WARM_UP * steps)
    return CosineLRScheduler(
        optimiser,
        t_initial=max(2, steps + 1 - warm_up),
        warmup_t=warm_up,
        warmup_prefix=True,
        t_in_epochs=False,
    )
