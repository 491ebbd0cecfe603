"""How well a detector tells images apart: predictions, metrics, tables and a report.

Free of torch. Needs the extra `eval`, except for `mpft_deploy.evaluate.scores`.
"""

from __future__ import annotations

from mpft_deploy.extras import require

NEEDS = ("pyarrow", "sklearn", "scipy")


def require_eval_extra() -> None:
    """An EnvironmentLacksError that names the remedy unless the extra `eval` is installed."""
    require("eval", "evaluation", *NEEDS)
