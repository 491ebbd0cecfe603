"""What was learnt beside a tower is merged into its weights: residuals, updates, norms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from foreign_towers import (
    HEADS,
    LAYERS,
    OUTPUT,
    WIDTH,
    Save,
    Weights,
    as_transformers,
    logits_of,
    normalised,
    prefixed,
    random,
)
from torch import nn

from mpft_deploy.detector.importing.assemble import Request, assemble
from mpft_deploy.errors import InputError, UsageError


def test_residuals_are_merged(tower: nn.Module, pixels: Any, save: Save) -> None:
    """As Effort has it: two logits of the pooled class token, attention's matrices in parts."""
    source = as_transformers(tower.state_dict())
    source.pop("visual_projection.weight")
    stored: Weights = {}
    for name, value in source.items():
        name = name.replace("vision_model.", "backbone.")
        if "self_attn" in name and value.ndim == 2:
            layer = name.removesuffix(".weight")
            u, s, v = torch.linalg.svd(value, full_matrices=False)
            stored[f"{layer}.weight_main"] = u[:, :-1] * s[:-1] @ v[:-1]
            stored |= {
                f"{layer}.{part}": one.contiguous()
                for part, one in (
                    ("U_residual", u[:, -1:]),
                    ("S_residual", s[-1:]),
                    ("V_residual", v[-1:]),
                    ("U_r", u[:, :-1]),
                    ("S_r", s[:-1]),
                    ("V_r", v[:-1]),
                )
            }
        else:
            stored[name] = value
    head = {"head.weight": random(90, 2, WIDTH), "head.bias": random(91, 2)}
    projection = tower.proj
    tower.proj = None  # what is read is not projected
    with torch.inference_mode():
        scores = tower(normalised(pixels)) @ head["head.weight"].T + head["head.bias"]
    tower.proj = projection
    made = assemble(Request([save({**stored, **head})], heads=HEADS))
    expected = scores[:, 1] - scores[:, 0]
    torch.testing.assert_close(logits_of(made, pixels), expected, atol=1e-4, rtol=0)
    del stored["backbone.encoder.layers.0.self_attn.q_proj.V_residual"]
    with pytest.raises(InputError, match="a residual of which parts are missing"):
        assemble(Request([save({**stored, **head})], heads=HEADS))


def lora(tower: nn.Module, rank: int = 4) -> tuple[Weights, Weights, float]:
    """Updates by PEFT's names, the weights with them, and PEFT's alpha."""
    alpha = 6.0
    names = as_transformers(tower.state_dict())
    updates: Weights = {}
    for layer in range(LAYERS):
        for part in ("q_proj", "v_proj"):
            name = f"vision_model.encoder.layers.{layer}.self_attn.{part}"
            down, up = random(layer, rank, WIDTH), random(layer + 50, WIDTH, rank)
            updates[f"base_model.model.{name}.lora_A.weight"] = down
            updates[f"base_model.model.{name}.lora_B.weight"] = up
            names[f"{name}.weight"] = names[f"{name}.weight"] + alpha / rank * up @ down
    return updates, names, alpha


def test_low_rank_updates_are_merged(
    tower: nn.Module, pixels: Any, save: Save, tmp_path: Path
) -> None:
    updates, merged, alpha = lora(tower)
    head = {"base_model.model.fc.weight": random(90, 1, OUTPUT)}
    expected = logits_of(
        assemble(
            Request(
                [save({**merged, "fc.weight": head["base_model.model.fc.weight"]})], heads=HEADS
            )
        ),
        pixels,
    )
    frozen = save(tower.state_dict(), "tower.safetensors")
    plain = logits_of(assemble(Request([save(head)], str(frozen), heads=HEADS)), pixels)
    assert (plain - expected).abs().max() > 0.1

    # PEFT's folder: updates and head, beside a tower by other names.
    folder = tmp_path / "adapter"
    folder.mkdir()
    safetensors.torch.save_file({**updates, **head}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": alpha}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    made = assemble(Request([folder], str(frozen), heads=HEADS))
    torch.testing.assert_close(logits_of(made, pixels), expected, atol=1e-4, rtol=0)

    # One state_dict, the matrices under base_layer.
    wrapped = {
        name.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default"): value
        for name, value in updates.items()
    }
    for name, value in as_transformers(tower.state_dict()).items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        own = (
            f"{layer}.base_layer.weight"
            if f"{layer}.lora_A.weight" in updates
            else f"base_model.model.{name}"
        )
        wrapped[own] = value
    path = save({**wrapped, **head})
    made = assemble(Request([path], heads=HEADS, lora_alpha=alpha))
    torch.testing.assert_close(logits_of(made, pixels), expected, atol=1e-4, rtol=0)
    with pytest.raises(UsageError, match=r"6 matrices have low-rank updates .* --lora-alpha"):
        assemble(Request([path], heads=HEADS))
    q = "vision_model.encoder.layers.0.self_attn.q_proj"
    for odd, shape in (("lora_B.bias", (WIDTH,)), ("lora_B.other.weight", (WIDTH, 4))):
        more = {f"base_model.model.{q}.{odd}": random(92, *shape)}  # which was left out unsaid
        for ordered in ({**more, **wrapped}, {**wrapped, **more}):
            with pytest.raises(InputError, match="a bias of a low-rank update, or of a second"):
                assemble(Request([save({**ordered, **head})], heads=HEADS, lora_alpha=alpha))
    for odd in ({"use_dora": True}, {"peft_type": "LOHA"}, {"rank_pattern": {"q": 8}}):
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **odd}))
        with pytest.raises(InputError, match="no plain low-rank update"):
            assemble(Request([folder], str(frozen), heads=HEADS))


def test_a_batch_normalisation_is_folded(tower: nn.Module, pixels: Any, save: Save) -> None:
    head = nn.Sequential(nn.BatchNorm1d(OUTPUT), nn.Dropout(0.5), nn.Linear(OUTPUT, 1)).eval()
    norm = head[0]
    norm.running_mean.data = random(1, OUTPUT)
    norm.running_var.data = random(2, OUTPUT).abs() + 0.1
    norm.weight.data, norm.bias.data = random(3, OUTPUT), random(4, OUTPUT)
    with torch.inference_mode():
        expected = head(tower(normalised(pixels)))[:, 0]
    weights = {**prefixed("visual.", tower.state_dict()), **prefixed("head.", head.state_dict())}
    made = assemble(Request([save(weights)], heads=HEADS))
    torch.testing.assert_close(logits_of(made, pixels), expected, atol=1e-4, rtol=0)
    assert "its batch normalisation was folded into the head" in made.told
