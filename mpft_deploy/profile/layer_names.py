"""From an operator's name in an engine to its place in the network.

Nodes are named by `mpft_deploy.export.graph`, such as `block7.attention.qkv.matmul`; precisions add
parts (`.integer`), and engines add more when they fuse (`/QuickGeluFusion/`, `a + b`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Place = tuple[str, ...]

PARTS = {
    "attention": ("q", "k", "v", "qkv", "kv", "scores", "softmax", "mix", "out_proj"),
    "mlp": ("c_fc", "activation", "c_proj"),
}
"""Parts of a block that are told apart; what lies below them belongs to them."""

_EMBEDDING = frozenset(
    {"patches", "patch_embedding", "position_embedding", "class_token", "cell_tokens"}
    | {"tokens", "ln_pre", "positions"}
)
_HEAD = ("features", "ln_post", "head", "logit")
_TOKEN = re.compile(r"[A-Za-z_][\w.]*")

OTHER: Place = ("other",)


def layer_path(name: str) -> Place:
    """The place of one operator; OTHER for a name that is none of the network's.

    >>> layer_path("block7.attention.qkv.matmul.integer")
    ('block 7', 'attention', 'qkv')
    """
    head, *rest = name.strip("/").split("/")[0].split(".")
    if match := re.fullmatch(r"block(\d+)", head):
        return (f"block {match[1]}", *_within_block(rest))
    if head in _EMBEDDING:
        return ("embedding", "ln_pre" if head == "ln_pre" else "tokens")
    if head in _HEAD:
        return ("head",)
    return OTHER


def _within_block(parts: Sequence[str]) -> Place:
    if not parts or parts[0] in ("attended", "class_token"):
        return ("residual",)
    if parts[0] in PARTS:
        part = parts[1] if len(parts) > 1 else ""
        if part in ("rows", "merged"):  # of the heads' outputs, back to one vector a token
            part = "mix"
        elif part in "qkv" and len(part) == 1 and parts[2:3] in (["split"], ["heads"]):
            part = "heads"
        return (parts[0], part) if part in (*PARTS[parts[0]], "heads") else (parts[0],)
    return (parts[0],)


def fused_path(names: Sequence[str]) -> Place:
    """The place of an operator that does the work of several: that of most of them.

    Of as many, the first counts: what was fused into a matmul follows it.
    """
    paths = [path for name in names if (path := layer_path(name)) != OTHER]
    if not paths:
        return OTHER
    return max(paths, key=lambda path: (paths.count(path), -paths.index(path)))


def names_within(text: str) -> list[str]:
    """Names of the network in an engine's own name for a fused operator."""
    return [word for word in _TOKEN.findall(text) if layer_path(word) != OTHER]
