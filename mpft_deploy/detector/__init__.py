"""PyTorch side: model, masking, data, training, evaluation. Needs the extra `train`.

The paper (arXiv 2601.03586) could be read only in its abstract: what goes beyond "fine-tune CLIP
while textured areas are masked" is our reconstruction, and every part of it is a setting.
"""

from __future__ import annotations

from mpft_deploy.extras import require

NEEDS = ("torch", "torchvision", "open_clip", "timm", "sklearn", "tensorboardX", "pyarrow")


def require_train_extra() -> None:
    """An EnvironmentLacksError that names the remedy unless the extra `train` is installed."""
    require("train", "training", *NEEDS)
