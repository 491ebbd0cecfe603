"""The same network in PyTorch: eager and compiled, float16, on all tokens and on those we keep.

From a view u8 [S, S, 3] in host memory to its logit there, which is what ours are timed from. The
attention is the fastest of those that PyTorch has here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention
from turns import figures

from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.spec import DetectorSpec

if TYPE_CHECKING:
    from gpu_bench import Bench

ATTENTIONS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
COMPILE_SECONDS = 240
"""After which nothing more is compiled."""


def make_network(
    spec: DetectorSpec, weights: Mapping[str, Any], device: str, dtype: torch.dtype
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Views u8 [B, S, S, 3] and positions i64 [B, K], both on the device, to logits [B]."""
    w = {
        name: torch.tensor(np.asarray(one), dtype=dtype, device=device)
        for name, one in weights.items()
    }
    arch, patch, grid = spec.architecture, spec.patch, spec.crop.size // spec.patch
    mean, std = (torch.tensor(one, dtype=dtype, device=device) for one in (spec.mean, spec.std))
    kernel = w["conv1.weight"].permute(0, 2, 3, 1).reshape(arch.width, -1)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def block(own: str, x: torch.Tensor) -> torch.Tensor:
        qkv = linear(
            norm(f"{own}.ln_1", x), w[f"{own}.attn.in_proj_weight"], w[f"{own}.attn.in_proj_bias"]
        )
        parts = qkv.unflatten(-1, (3, arch.heads, -1)).permute(2, 0, 3, 1, 4)
        read = scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = x + linear(read, w[f"{own}.attn.out_proj.weight"], w[f"{own}.attn.out_proj.bias"])
        hidden = linear(
            norm(f"{own}.ln_2", x), w[f"{own}.mlp.c_fc.weight"], w[f"{own}.mlp.c_fc.bias"]
        )
        if arch.activation == "gelu":
            hidden = torch.nn.functional.gelu(hidden)
        else:
            hidden = hidden * torch.sigmoid(1.702 * hidden)
        return x + linear(hidden, w[f"{own}.mlp.c_proj.weight"], w[f"{own}.mlp.c_proj.bias"])

    def logits(views: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        cells = views.unflatten(1, (grid, patch)).unflatten(3, (grid, patch))
        cells = cells.permute(0, 1, 3, 2, 4, 5).reshape(len(views), grid * grid, -1, 3)
        if positions.shape[1] < grid * grid:
            rows = positions[..., None, None].expand(-1, -1, *cells.shape[2:])
            cells = cells.gather(1, rows)
        pixels = (cells.to(dtype) / 255 - mean) / std
        x = linear(pixels.flatten(2), kernel) + w["positional_embedding"][positions + 1]
        first = (w["class_embedding"] + w["positional_embedding"][0]).expand(len(x), 1, -1)
        x = norm("ln_pre", torch.cat([first, x], 1))
        taps = []
        for index in range(spec.depth):
            x = block(f"transformer.resblocks.{index}", x)
            if index >= spec.depth - spec.taps:
                read = norm("ln_post", x[:, 0])
                if spec.feature != "token":
                    read = read @ w["proj"]
                if spec.feature == "unit":
                    read = read / read.norm(dim=-1, keepdim=True)
                taps.append(read)
        return linear(torch.cat(taps, 1), w["head.weight"], w["head.bias"])[:, 0].float()

    return logits


def measure(bench: Bench) -> list[dict[str, Any]]:
    """Milliseconds and views a second of each, at each batch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if bench.dry else before)
    try:
        return _measure(bench)
    finally:
        torch.set_num_threads(before)


def _measure(bench: Bench) -> list[dict[str, Any]]:
    device, dtype = ("cpu", torch.float32) if bench.dry else ("cuda", torch.float16)
    spec = bench.detector.spec
    network = make_network(spec, bench.detector.weights, device, dtype)
    rows, begin = [], time.perf_counter()
    compiled = torch.compile(
        network, **({"backend": "eager"} if bench.dry else {"mode": "max-autotune"})
    )
    with torch.inference_mode():
        backend = _fastest(bench, network, device)
        for batch, (what, function, tokens) in (
            (batch, one)
            for one in (
                ("eager, all tokens", network, spec.cells),
                ("compiled, all tokens", compiled, spec.cells),
                ("compiled, our tokens", compiled, spec.tokens),
            )
            for batch in bench.batches
        ):
            row: dict[str, Any] = {"what": what, "batch": batch, "attention": backend.name}
            if function is compiled and time.perf_counter() - begin > COMPILE_SECONDS:
                rows.append({**row, "not_measured": "no time was left to compile it"})
                continue
            call = _call(bench, function, batch, tokens, device)
            try:
                with sdpa_kernel(backend):
                    ms = figures(bench.time(call))
            except Exception as error:  # a compiler that is not here loses no more than its rows
                rows.append({**row, "not_measured": f"{type(error).__name__}: {error}"[:500]})
                continue
            rate = round(batch / ms["p50"]["value"] * 1000)
            rows.append({**row, "ms": ms, "views_per_second": rate})
    return rows


def differences(bench: Bench) -> Iterator[str]:
    """How far this network is from the detector's golden logits, if further than rounding goes."""
    spec, golden = bench.detector.spec, bench.detector.golden
    network = make_network(spec, bench.detector.weights, "cpu", torch.float32)
    cut = oracle.texture_patchify(golden.crops, spec.patch, spec.keep_rule, spec.keep_seed)
    with torch.inference_mode():
        found = network(torch.from_numpy(golden.crops), torch.from_numpy(cut.positions).long())
    if (most := np.abs(found.numpy() - golden.logits).max()) > 0.01:
        yield f"PyTorch's logits differ by up to {most:.3g}"


def _call(bench: Bench, network: Any, batch: int, tokens: int, device: str) -> Callable[[], object]:
    views = torch.from_numpy(np.stack(bench.views(batch)))
    views = views if device == "cpu" else views.pin_memory()
    positions = torch.arange(tokens, device=device).expand(batch, -1).contiguous()

    def call() -> object:
        return network(views.to(device, non_blocking=True), positions).cpu()

    return call


def _fastest(bench: Bench, network: Any, device: str) -> SDPBackend:
    """Of PyTorch's attentions, for one view of all tokens."""
    took = {}
    call = _call(bench, network, 1, bench.detector.spec.cells, device)
    for name in ATTENTIONS:
        backend = getattr(SDPBackend, name)
        try:
            with sdpa_kernel(backend):
                took[backend] = min(bench.time(call))
        except RuntimeError:  # it has none for this device or type
            continue
    return min(took, key=lambda one: took[one])
