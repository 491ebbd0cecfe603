"""How well a detector tells images apart: predictions, metrics, tables and a report.

Free of torch. Needs the extra `eval`, except for `mpft_deploy.evaluate.scores`.
"""

from __future__ import annotations

import importlib.util

from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.extras import how_to_install

NEEDS = ("pyarrow", "sklearn", "scipy")


def require_eval_extra() -> None:
    """An EnvironmentLacksError that names the remedy unless the extra `eval` is installed."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise EnvironmentLacksError(
            f"evaluation needs {', '.join(missing)}: {how_to_install('eval')}"
        )
