"""Which layers of a quantised network to leave in float: those that cost the most error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

GROUPS = {
    "c_proj": "mlp.c_proj",
    "c_fc": "mlp.c_fc",
    "qkv": "attention.[qk]*",
    "out_proj": "attention.out_proj",
}
"""Group of layers → its pattern within a block; the last block has q and kv in place of qkv."""

RUNGS = (1, 3)
"""How many blocks of the worst group are tried before all of them: an engine may miss its budget by
one image, and each layer in float costs time."""

Layers = tuple[str, ...]


def float_layer_ladder(error: Callable[[Layers], float], depth: int) -> list[Layers]:
    """Sets of layers to leave in float, each a superset of the one before, the cheapest first.

    Groups are ranked by the error that leaving one alone in float removes, and the blocks of the
    worst group likewise. Leaving all groups in float would be no quantisation and is not offered.

    Args:
        error: mean logit error with the given patterns in float.
        depth: blocks of the network.
    """
    groups = _worst_first(error, [f"*.{pattern}" for pattern in GROUPS.values()])
    within = groups[0].removeprefix("*.")
    blocks = _worst_first(error, [f"block{index}.{within}" for index in range(depth)])
    ladder = [tuple(blocks[:count]) for count in RUNGS if count < depth]
    return ladder + [tuple(groups[:count]) for count in range(1, len(groups))]


def _worst_first(error: Callable[[Layers], float], patterns: Sequence[str]) -> list[str]:
    errors = {pattern: error((pattern,)) for pattern in patterns}
    return sorted(patterns, key=errors.__getitem__)
