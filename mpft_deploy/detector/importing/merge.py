"""Adapters that are sums: low-rank updates and residuals, merged into the matrices they adapt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpft_deploy.detector.backbone import Weights
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.files import display, read_small

LORA = re.compile(r"(.+)\.lora_(A|B)(?:\.[^.]+)?(?:\.weight)?")
"""Hu et al., arXiv 2106.09685, as PEFT names them (`q_proj.lora_A.default.weight`) and loralib
(`q_proj.lora_A`)."""

RESIDUAL = ("U_residual", "S_residual", "V_residual")
"""Yan et al., arXiv 2411.15633 (Effort): beside `weight_main`, the part that was learnt."""

FROZEN = re.compile(r".*\.(S_r|U_r|V_r|weight_original_fnorm|weight_main_fnorm)")
"""What only the training of such a residual needs."""

NO_PLAIN_SUM = ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
"""Settings of PEFT under which an update is something else than a product times one scale."""

PEFT = "base_model.model."
"""What it puts before the names of the model that it adapts."""

SAVED = re.compile(r"(.+)\.modules_to_save\.[^.]+\.(.+)")
ORIGINAL = re.compile(r".+\.original_module\..+")


@dataclass(frozen=True)
class Adapters:
    """What a PEFT folder says of its low-rank updates: alpha and r; see `read_adapters`."""

    alpha: float
    rank: int | None = None
    rooted: bool = False

    def scale(self, rank: int) -> float:
        """What a product of that rank is multiplied by."""
        rank = self.rank or rank
        return float(self.alpha / (rank**0.5 if self.rooted else rank))


def read_adapters(path: Path) -> Adapters:
    """Parse an `adapter_config.json`; an InputError for what is no plain low-rank update."""
    where = display(path)
    try:
        stated: dict[str, Any] = json.loads(read_small(path))
        kind = str(stated.get("peft_type", "LORA"))
        odd = [name for name in NO_PLAIN_SUM if stated.get(name)]
        adapters = Adapters(
            float(stated["lora_alpha"]), int(stated["r"]), bool(stated.get("use_rslora"))
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{where} is not understood as PEFT's settings: {error}") from None
    if kind != "LORA" or odd:
        raise InputError(
            f"{where} has adapters that are no plain low-rank update ({', '.join([kind, *odd])}): "
            "merge them with PEFT's merge_and_unload, and save the model's state_dict"
        )
    return adapters


def merge(
    tensors: Mapping[str, torch.Tensor], adapters: Adapters | None
) -> tuple[Weights, Weights, list[str]]:
    """Weights with every low-rank update and residual added to the matrix that it adapts.

    Args:
        adapters: how updates are scaled, which tensors do not tell; None if it is not known.

    Returns:
        The weights; the updates of matrices that are not among them, by those matrices' names; and
        what was merged, for people.

    Raises:
        InputError: an update is incomplete, or another kind than a product of two matrices.
        UsageError: updates are there, but not how they are scaled.
    """
    plain: Weights = {}
    pairs: dict[str, Weights] = {}
    residuals: dict[str, Weights] = {}
    for own, value in tensors.items():
        key = own.removeprefix("module.").removeprefix(PEFT)
        part = key.rpartition(".")
        if found := LORA.fullmatch(key):
            parts = pairs.setdefault(found[1], {})
            if found[2] in parts or key.endswith(".bias"):
                raise InputError(
                    f"{display(own)} is a bias of a low-rank update, or of a second one of its "
                    "matrix: merge them with PEFT's merge_and_unload, and save the model's "
                    "state_dict"
                )
            parts[found[2]] = value.float()
        elif part[2] in ("weight_main", *RESIDUAL):
            residuals.setdefault(part[0], {})[part[2]] = value.float()
        elif saved := SAVED.fullmatch(key):
            plain[f"{saved[1]}.{saved[2]}"] = value
        elif not FROZEN.fullmatch(key) and not ORIGINAL.fullmatch(key):
            plain[key.replace(".base_layer.", ".")] = value
    told = []
    for name, parts in residuals.items():
        plain[f"{name}.weight"] = _with_residual(name, parts)
    if residuals:
        told.append(f"the residuals of {len(residuals)} matrices were added to them")
    if pairs and adapters is None:
        raise UsageError(
            f"{len(pairs)} matrices have low-rank updates beside them (such as "
            f"{display(min(pairs))}), and tensors do not tell how they are scaled: give "
            "--lora-alpha, or the folder with PEFT's adapter_config.json"
        )
    updates: Weights = {}
    for name, parts in pairs.items():
        assert adapters is not None
        update = _product(name, parts, adapters)
        if (base := plain.get(f"{name}.weight")) is None:
            updates[f"{name}.weight"] = update
        else:
            plain[f"{name}.weight"] = added(f"{name}.weight", base, update)
    if pairs:
        told.append(f"the low-rank updates of {len(pairs)} matrices were added to them")
    return plain, updates, told


def added(name: str, base: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """A matrix with an update, computed in float64; an InputError if their shapes differ."""
    if base.shape != update.shape:
        raise InputError(
            f"the update of {display(name)} has the shape {list(update.shape)}, and the matrix "
            f"{list(base.shape)}"
        )
    return (base.double() + update.double()).float()


def _with_residual(name: str, parts: Weights) -> torch.Tensor:
    main, there = parts.get("weight_main"), [parts.get(one) for one in RESIDUAL]
    if main is None or (
        any(one is None for one in there) and any(one is not None for one in there)
    ):
        raise InputError(
            f"{display(name)} has a residual of which parts are missing: {list(parts)}"
        )
    u, s, v = there
    if u is None or s is None or v is None:
        return main
    try:
        residual = (u.double() * s.double()) @ v.double()
    except RuntimeError:
        shapes = [list(one.shape) for one in (u, s, v)]
        raise InputError(f"the residual of {display(name)} has parts of shapes {shapes}") from None
    return added(name, main, residual)


def _product(name: str, parts: Weights, adapters: Adapters) -> torch.Tensor:
    down, up = parts.get("A"), parts.get("B")
    if down is None or up is None or down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        shapes = {f"lora_{one}": list(value.shape) for one, value in parts.items()}
        raise InputError(
            f"the low-rank update of {display(name)} is no product of two matrices: {shapes}; "
            "merge it with the program that made it, and save the model's state_dict"
        )
    return (up.double() @ down.double() * adapters.scale(len(down))).float()
