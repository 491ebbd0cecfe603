"""PyTorch side: model, masking, data, training, evaluation. Needs the extra `train`.

The paper (arXiv 2601.03586) could be read only in its abstract: what goes beyond "fine-tune CLIP
while textured areas are masked" is our reconstruction, and every part of it is a setting.
"""

from __future__ import annotations

import importlib.util

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.extras import how_to_install

NEEDS = ("torch", "torchvision", "open_clip", "sklearn", "matplotlib", "pyarrow")


def require_train_extra() -> None:
    """An EnvironmentLacksError that names the remedy unless the extra `train` is installed."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise EnvironmentLacksError(
            f"training needs {', '.join(missing)}: {how_to_install('train')}"
        )
