"""What each precision is: data, for graphs and for the backend native."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from msgspec.structs import replace

from mpft_deploy.bundle import Precision
from mpft_deploy.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """What a precision does.

    Attributes:
        help: a line for people who choose.
        precision: what it makes of the linear layers and of the other matmuls.
    """

    help: str
    precision: Precision

    @property
    def quantised(self) -> bool:
        """Whether a graph's layers are brought into 8 bits, for which they are smoothed first."""
        return self.precision.activations in ("static", "dynamic per tensor")

    @property
    def static(self) -> bool:
        """Whether that needs the ranges of the layers' inputs."""
        return self.precision.activations == "static"


def _by_name(*recipes: Recipe) -> dict[str, Recipe]:
    return {str(recipe.precision): recipe for recipe in recipes}


INT8, FP8 = Precision("int8", "static"), Precision("float8", "static")
BY_RANGES = "layers by calibrated ranges"
RECIPES = _by_name(
    Recipe("float32 throughout", Precision("float32")),
    Recipe("matmuls in float16", Precision("float16", rest="float16")),
    Recipe("matmuls in bfloat16", Precision("bfloat16", rest="bfloat16")),
    Recipe(
        "int8 layers, activations scaled as the engine runs",
        Precision("int8", "dynamic per tensor"),
    ),
    Recipe(f"int8 {BY_RANGES}", INT8),
    Recipe(f"int8 {BY_RANGES}, other matmuls in float16", replace(INT8, rest="float16")),
    Recipe(f"int8 {BY_RANGES}, other matmuls in bfloat16", replace(INT8, rest="bfloat16")),
    Recipe(f"E4M3 {BY_RANGES}, other matmuls in float16", replace(FP8, rest="float16")),
)
"""Of graphs."""

SAME = "the same logits on every processor"
TOKENS = Precision("int8", "dynamic per token")
INTEGERS = _by_name(
    Recipe(f"int8; {SAME}", TOKENS),
    Recipe(f"int8, and 16 bits where verdicts hang on it; {SAME}", replace(TOKENS, again=inf)),
    Recipe(
        f"activations of 16 bits; {SAME}",
        replace(TOKENS, wide_layers=("qkv", "out", "fc", "proj")),
    ),
)
"""Of the backend native, which runs no graph."""


def recipe_of(name: str) -> Recipe:
    """The recipe of a precision, of a graph or of the backend native."""
    return {**RECIPES, **INTEGERS}[name]


def precision_of(name: str, float_layers: Sequence[str] = ()) -> Precision:
    """The record of a precision, with patterns of layers that it leaves in float.

    Raises:
        UsageError: it has none to leave, or nothing else.
    """
    if float_layers and (name in INTEGERS or name == "fp32"):
        why = "it has no floats" if name in INTEGERS else "it has nothing else"
        raise UsageError(f"--float-layers does not go with precision {name}: {why}")
    return replace(recipe_of(name).precision, float_layers=tuple(float_layers))


def is_left_float(layer: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns of float layers matches a linear layer's name."""
    return any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)
