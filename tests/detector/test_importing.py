"""Checkpoints of others: every kind gives the logits of its own forward pass, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.models.vision_transformer
import torch
from foreign_towers import (
    HEADS,
    LAYERS,
    OUTPUT,
    PATCH,
    SIZE,
    WIDTH,
    Save,
    Weights,
    as_transformers,
    logits_of,
    normalised,
    prefixed,
    random,
)
from media import picture
from PIL import Image
from reference import FLOAT32
from torch import nn
from torch.nn import functional
from torchvision import transforms

from mpft_deploy.bundle import read_bundle
from mpft_deploy.detector.backbone import read_tensors
from mpft_deploy.detector.importing.assemble import Request, assemble
from mpft_deploy.detector.importing.publish import import_detector
from mpft_deploy.detector.importing.sources import read_sources
from mpft_deploy.detector_folder import read_detector
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.evaluate.models import BundleModel
from mpft_deploy.export.pipeline import Request as Export
from mpft_deploy.export.pipeline import export
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.screen import Screener
from mpft_deploy.spec import KeepRule, Scaling

TEXT = {
    "token_embedding.weight": torch.zeros(9, 5),
    "positional_embedding": torch.zeros(7, 5),
    "transformer.resblocks.0.ln_1.weight": torch.zeros(5),
    "ln_final.weight": torch.zeros(5),
    "text_projection": torch.zeros(5, OUTPUT),
    "logit_scale": torch.tensor(4.6),
}
TEXT_OF_TRANSFORMERS = {
    "text_model.encoder.layers.0.layer_norm1.weight": torch.zeros(5),
    "text_model.embeddings.position_ids": torch.arange(7),
    "text_projection.weight": torch.zeros(OUTPUT, 5),
    "vision_model.embeddings.position_ids": torch.arange(17)[None],
    "logit_scale": torch.tensor(4.6),
}


def test_a_head_alone_over_a_frozen_tower(tower: nn.Module, pixels: Any, save: Save) -> None:
    weight, bias = random(90, 1, OUTPUT), random(91, 1)
    with torch.inference_mode():
        expected = tower(normalised(pixels)) @ weight[0] + bias
    backbone = save({"state_dict": {**TEXT, **prefixed("visual.", tower.state_dict())}}, "clip.pt")
    for head in ({"weight": weight, "bias": bias}, {"fc.weight": weight, "fc.bias": bias}):
        made = assemble(Request([save(head)], str(backbone), heads=HEADS))
        torch.testing.assert_close(logits_of(made, pixels), expected, atol=1e-4, rtol=0)
        both = assemble(Request([save(head), backbone], heads=HEADS))
        assert both.weights.keys() == made.weights.keys()
    assert made.spec.architecture.output_dim == OUTPUT
    assert (made.spec.patch, made.spec.crop.size, made.spec.cells) == (PATCH, SIZE, 16)
    with pytest.raises(UsageError, match=r"holds no image tower: give the one .* by --backbone"):
        assemble(Request([save(head)]))


def test_a_head_over_a_backbone_by_name(tiny_backbone: str, save: Save, pixels: Any) -> None:
    head = {"fc.weight": random(90, 1, 32), "fc.bias": random(91, 1)}
    made = assemble(Request([save(head)], tiny_backbone))
    assert made.spec.architecture.name == "mpft-tiny"
    assert made.spec.architecture.heads == 2


NAMINGS: dict[str, Callable[[Weights], Weights]] = {
    "open_clip": lambda w: w,
    "OpenAI": lambda w: {**TEXT, **prefixed("visual.", w)},
    "UniversalFakeDetect": lambda w: prefixed("model.", {**TEXT, **prefixed("visual.", w)}),
    "transformers": as_transformers,
    "CLIPModel": lambda w: {**TEXT_OF_TRANSFORMERS, **as_transformers(w)},
    "distributed": lambda w: prefixed("module.clip.", as_transformers(w)),
}


@pytest.mark.parametrize("name", NAMINGS)
@pytest.mark.parametrize("container", ["model.safetensors", "model.pth"])
def test_names_are_recognised(
    name: str, container: str, tower: nn.Module, pixels: Any, save: Save
) -> None:
    weight = random(90, 1, OUTPUT)
    with torch.inference_mode():
        expected = tower(normalised(pixels)) @ weight[0]
    made = assemble(
        Request(
            [save({**NAMINGS[name](tower.state_dict()), "fc.weight": weight}, container)],
            heads=HEADS,
        )
    )
    torch.testing.assert_close(logits_of(made, pixels), expected, atol=1e-4, rtol=0)
    assert any("assumed: quick_gelu" in line for line in made.told)


def test_timm(pixels: Any, save: Save) -> None:
    source = timm.models.vision_transformer.VisionTransformer(
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=LAYERS,
        num_heads=HEADS,
        mlp_ratio=2.0,
        pre_norm=True,
        norm_layer=nn.LayerNorm,
        num_classes=2,
    ).eval()
    for seed, value in enumerate(source.parameters()):
        value.data = value.data * (value.ndim > 1) + random(seed, *value.shape)
    with torch.inference_mode():
        scores = source(normalised(pixels))
        feature = source.forward_head(source.forward_features(normalised(pixels)), pre_logits=True)
    plain = source.state_dict()
    made = assemble(Request([save({"model": plain})], heads=HEADS, activation="gelu"))
    difference = scores[:, 1] - scores[:, 0]
    torch.testing.assert_close(logits_of(made, pixels), difference, atol=1e-4, rtol=0)
    inverted = assemble(Request([save(plain)], heads=HEADS, activation="gelu", invert=True))
    torch.testing.assert_close(logits_of(inverted, pixels), -difference, atol=1e-4, rtol=0)

    # As timm has CLIP: its head is the projection, and ours stands behind it.
    projection, weight = random(80, OUTPUT, WIDTH), random(81, 1, OUTPUT)
    whole = {**plain, "head.weight": projection, "head.bias": random(82, OUTPUT)}
    expected = (feature @ projection.T + whole["head.bias"]) @ weight[0]
    made = assemble(
        Request(
            [save({**prefixed("visual.", whole), "classifier.weight": weight})],
            heads=HEADS,
            activation="gelu",
        )
    )
    torch.testing.assert_close(logits_of(made, pixels), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["pooled", "unit"])
def test_transformers_own_forward_pass(kind: str, pixels: Any, save: Save, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=OUTPUT,
    )
    source = transformers.CLIPVisionModelWithProjection(config).eval()
    head = nn.Linear(WIDTH if kind == "pooled" else OUTPUT, 1)
    with torch.inference_mode():
        if kind == "pooled":
            feature = source.vision_model(normalised(pixels)).pooler_output
            names = {"model.": source.state_dict(), "fc.": head.state_dict()}
        else:
            feature = functional.normalize(source(normalised(pixels)).image_embeds, dim=-1)
            names = {"model.": source.state_dict(), "model.fc.": head.state_dict()}
        expected = head(feature)[:, 0]
    (tmp_path / "config.json").write_text(config.to_json_string())
    save({k + n: v for k, part in names.items() for n, v in part.items()}, "model.safetensors")
    made = assemble(Request([tmp_path]))
    torch.testing.assert_close(logits_of(made, pixels), expected, atol=1e-4, rtol=0)
    assumed = [line for line in made.told if "assumed" in line]
    assert (
        assumed
        == ["assumed: C2P-CLIP, by its names; if not, give --features projected"][: kind == "unit"]
    )


def test_what_is_no_plain_tower_with_a_linear_head_is_refused(tower: nn.Module, save: Save) -> None:
    plain = {**tower.state_dict(), "fc.weight": random(90, 1, OUTPUT)}
    block = "transformer.resblocks.1"
    cases: dict[str, Weights] = {
        "2 tensors of adapters inside its blocks": {
            **plain,
            f"{block}.adapter.down.weight": random(1, 8, WIDTH),
            f"{block}.adapter.up.weight": random(1, WIDTH, 8),
        },
        "2 transformers, a.… .open_clip., b.…": {
            **prefixed("a.", tower.state_dict()),
            **prefixed("b.", tower.state_dict()),
        },
        "1 tensors of a head of several layers: fc.0.weight": {
            **plain,
            "fc.weight": random(1, 1, 8),
            "fc.0.weight": random(1, 8, OUTPUT),
        },
        "no linear head of one or two logits; its matrices: fc.weight .1000, 48.": {
            **plain,
            "fc.weight": random(1, 1000, OUTPUT),
        },
        "no linear head of one or two logits, and no other matrix": dict(tower.state_dict()),
        "1 tensors of another kind: prompts": {**plain, "prompts": random(1, 1, 8, WIDTH)},
        "the width 47, but the class token has 64 and its projection 48": {
            **plain,
            "fc.weight": random(1, 1, 47),
        },
        "1 missing .ln_pre.weight.": {k: v for k, v in plain.items() if k != "ln_pre.weight"},
        "numbers that are not finite": {**plain, "ln_post.bias": torch.full((WIDTH,), torch.nan)},
        "no transformer by the names that CLIP has": {
            f"layer1.{index}.conv.weight": random(1, 2, 2, 3, 3) for index in range(20)
        },
    }
    for message, weights in cases.items():
        with pytest.raises((InputError, UsageError), match=message):
            assemble(Request([save(weights)], heads=HEADS))
    with pytest.raises(InputError, match="cannot be read as a checkpoint of tensors alone"):
        assemble(Request([save(tower)]))
    with pytest.raises(InputError, match=r"clip\.pt: no such file"):
        assemble(Request([save(plain)], backbone="nowhere/clip.pt"))


@pytest.mark.parametrize(
    "data", [b"hello", b"", b"PK\x03\x04", b"\x80\x02N.", b"(l.", bytes(64), b"\x89HDF\r\n\x1a\n"]
)
def test_bytes_that_are_no_checkpoint_are_told(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fc_weights.pth"
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as a checkpoint of tensors alone") as told:
        read_tensors(path)
    assert "weights_only" not in str(told.value)  # PyTorch's advice: to execute what it holds


def own_forward(tower: Any, crops: np.ndarray[Any, np.dtype[np.uint8]], keep: str) -> torch.Tensor:
    """CLIP's embedding by the source's own layers, which see the kept cells alone."""
    positions = texture_patchify(crops, PATCH, KeepRule.parse(keep)).positions
    cells = tower.conv1(normalised(crops)).flatten(2).transpose(1, 2)
    cells = cells + tower.positional_embedding[1:]
    cells = torch.stack([one[at] for one, at in zip(cells, positions, strict=True)])
    first = (tower.class_embedding + tower.positional_embedding[0]).expand(len(cells), 1, -1)
    x = tower.transformer(tower.ln_pre(torch.cat([first, cells], 1)))
    return tower.ln_post(x[:, 0]) @ tower.proj


@pytest.mark.parametrize(
    ("features", "keep"), [("projected", "all"), ("projected", "textured:9"), ("unit", "smooth:7")]
)
def test_an_import_is_exported(
    features: Any, keep: str, tower: nn.Module, save: Save, tmp_path: Path
) -> None:
    weight = random(90, 1, OUTPUT) * (1 if features == "projected" else 9)
    checkpoint = save({**tower.state_dict(), "fc.weight": weight})
    out = tmp_path / "detector"
    scaling = Scaling(side=64, filter="bilinear")
    request = Request([checkpoint], heads=HEADS, features=features, keep=keep, scaling=scaling)
    import_detector(request, out)
    folder = read_detector(out)
    assert folder.spec.keep == keep
    assert folder.spec.crop.scaling == scaling
    assert "model.pth" in folder.card
    golden = folder.golden

    def source(crops: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            feature = own_forward(tower, crops, keep)
            if keep == "all":
                torch.testing.assert_close(feature, tower(normalised(crops)))
            if features == "unit":
                feature = functional.normalize(feature, dim=-1)
            return (feature @ weight[0]).numpy()

    expected = source(golden.crops)
    np.testing.assert_allclose(golden.logits, expected, rtol=0, atol=1e-4)

    # A whole picture, as torchvision scales and cuts it.
    photo = picture(90, 130)
    scaled = transforms.CenterCrop(SIZE)(transforms.Resize(64)(Image.fromarray(photo)))
    of_photo = source(np.asarray(scaled)[None])[0]
    export(Export(out, tmp_path / "onnx", *FLOAT32, allow_unproven=True))
    judged = BundleModel(read_bundle(tmp_path / "onnx")).logits(golden.crops)[0]
    np.testing.assert_allclose(judged, expected, rtol=0, atol=1e-4)
    assert Screener.open(tmp_path / "onnx")(photo).logit == pytest.approx(of_photo, abs=1e-4)
    native = Export(
        out, tmp_path / "native", backend="native", precision="wide", allow_unproven=True
    )
    export(native)
    judged = BundleModel(read_bundle(tmp_path / "native")).logits(golden.crops)[0]
    # The weights were rounded to 8 bits: three blocks of random ones are off by a percent.
    assert np.corrcoef(judged, expected)[0, 1] > 0.99
    assert Screener.open(tmp_path / "native")(photo).logit == pytest.approx(of_photo, abs=0.3)


def test_the_command(
    mpft: Callable[..., tuple[int, str, str]], tower: nn.Module, save: Save, tmp_path: Path
) -> None:
    source = save({**tower.state_dict(), "fc.weight": random(90, 1, OUTPUT)})
    out = tmp_path / "detector"
    code, told, _ = mpft(
        "import", source, "--out", out, "--heads", HEADS, "--resize", "64:bilinear"
    )
    assert code == 0
    assert "the tower was recognised by the names of open_clip" in told
    assert "assumed: quick_gelu" in told
    code, told, _ = mpft("inspect", out)
    assert (code, "after scaling to 64 (bilinear)" in told) == (0, True)
    code, _, error = mpft("import", source, "--out", out, "--heads", HEADS, "--resize", "64x65")
    assert (code, "write pixels such as 256" in error) == (2, True)
    code, _, error = mpft("import", source, "--out", out, "--heads", HEADS)
    assert (code, "--overwrite" in error) == (2, True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"vision_config": [1]}'),
        ("config.json", '{"vision_config": {"hidden_act": ["gelu"]}}'),
        ("config.json", '{"num_attention_heads": "12"}'),
        ("config.json", '{"num_attention_heads": -12}'),
        ("open_clip_config.json", '{"model_cfg": "ViT-B-16"}'),
        ("open_clip_config.json", '{"vision_cfg": {"width": "768"}}'),
        ("open_clip_config.json", '{"vision_cfg": {"width": 768, "head_width": 0}}'),
        ("model.safetensors.index.json", '{"weight_map": ["model-1.safetensors"]}'),
        ("model.safetensors.index.json", '{"weight_map": {"conv1.weight": {}}}'),
        ("model.safetensors.index.json", "[" * 100_000),
    ],
)
def test_settings_that_are_nearly_right_are_no_traceback(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name} is not understood"):
        read_sources([tmp_path])
