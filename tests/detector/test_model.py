"""The detector against open_clip's own tower, and against itself on subsets of cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import get_args

import msgspec
import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import _build_vision_tower

from mpft_deploy.detector.backbone import Backbone, Geometry, geometry, shapes
from mpft_deploy.detector.model import Detector, encode
from mpft_deploy.errors import InputError
from mpft_deploy.kernels.texture_patchify import texture_patchify
from mpft_deploy.spec import CLIP_MEAN, CLIP_STD, Feature, KeepRule

Make = Callable[..., dict[str, torch.Tensor]]


def shrunk(name: str, layers: int) -> Geometry:
    tower = geometry(name)
    architecture = msgspec.structs.replace(tower.architecture, layers=layers)
    return dataclasses.replace(tower, architecture=architecture)


def detector(
    tower: Geometry,
    make: Make,
    depth: int | None = None,
    taps: int = 1,
    feature: Feature = "token",
) -> Detector:
    depth = tower.architecture.layers if depth is None else depth
    backbone = Backbone(tower, make(tower), "random")
    model = Detector.from_backbone(backbone, depth, taps=taps, feature=feature)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        model.head.weight.normal_(generator=generator)
        model.head.bias.normal_(generator=generator)
    return model.eval()


def crops(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), np.uint8)


def plain_forward(model: Detector, images: np.ndarray, positions: torch.Tensor) -> torch.Tensor:
    """Straight from the definition: embed all cells, select, run every block on every token."""
    visual = model.visual
    pixels = (torch.from_numpy(images).float() / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(
        CLIP_STD
    )
    grid = visual.conv1(pixels.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
    places = visual.positional_embedding
    cells = torch.stack(
        [(one + places[1:])[chosen.long()] for one, chosen in zip(grid, positions, strict=True)]
    )
    first = (visual.class_embedding + places[0]).expand(len(cells), 1, -1)
    x = visual.ln_pre(torch.cat([first, cells], 1))
    features = []
    for block in visual.transformer.resblocks:
        x = block(x)
        token = visual.ln_post(x)[:, 0]
        features.append(token if model.feature == "token" else token @ visual.proj)
    return model.head(torch.cat(features[-model.taps :], 1))[:, 0]


@pytest.mark.parametrize(
    "name",
    [
        f"{base}{kind}"
        for base in ("ViT-B-32", "ViT-B-16", "ViT-L-14")
        for kind in ("", "-quickgelu")
    ],
)
def test_all_cells_equal_open_clips_own_tower(name: str, random_weights: Make) -> None:
    tower = shrunk(name, 2)
    config = open_clip.get_model_config(name)
    theirs = _build_vision_tower(
        config["embed_dim"],
        {**config["vision_cfg"], "layers": 2},
        quick_gelu=config.get("quick_gelu", False),
    ).eval()
    theirs.load_state_dict(random_weights(tower))
    ours = detector(tower, random_weights, feature="plain")
    images = crops(tower.size)
    normalised = (torch.from_numpy(images).float() / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(
        CLIP_STD
    )
    with torch.no_grad():
        expected = ours.head(theirs(normalised.permute(0, 3, 1, 2)))[:, 0]
        logits = ours(*encode(images, tower.patch, KeepRule("all")))
    assert logits.dtype == torch.float32
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_any_subset_of_cells_is_that_subset(
    data: st.DataObject, tiny: Geometry, random_weights: Make
) -> None:
    count = data.draw(st.integers(1, tiny.cells))
    depth = data.draw(st.integers(1, 3))
    taps = data.draw(st.integers(1, depth))
    chosen = [sorted(data.draw(st.permutations(range(tiny.cells)))[:count]) for _ in range(2)]
    positions = torch.tensor(chosen, dtype=torch.int32)
    feature = data.draw(st.sampled_from(get_args(Feature)[:2]))
    model, images = detector(tiny, random_weights, depth, taps, feature), crops(tiny.size)
    whole = texture_patchify(images, tiny.patch, KeepRule("all")).patches
    patches = np.take_along_axis(whole, positions.numpy()[:, :, None].astype(np.int64), axis=1)
    with torch.no_grad():
        logits = model(torch.from_numpy(patches), positions)
        expected = plain_forward(model, images, positions)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_class_token_alone_in_the_last_block_has_the_plain_gradients(
    tiny: Geometry, random_weights: Make
) -> None:
    images = crops(tiny.size)
    patches, positions = encode(images, tiny.patch, KeepRule("textured", 7))
    grads = []
    for forward in (
        lambda model: model(patches, positions),
        lambda model: plain_forward(model, images, positions),
    ):
        model = detector(tiny, random_weights, taps=2)
        forward(model).square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_the_last_blocks_go_on_from_the_first_ones(
    tiny: Geometry, random_weights: Make, done: int
) -> None:
    model = detector(tiny, random_weights, 3, taps=1)
    given = encode(crops(tiny.size), tiny.patch, KeepRule.parse("textured:5"))
    torch.testing.assert_close(
        model.features_from(model.tokens(*given, done), done), model.features(*given)
    )


def test_zero_fill_blanks_the_other_cells_of_the_whole_image() -> None:
    images, keep = crops(64), KeepRule("smooth", 5)
    patches, positions = encode(images, 16, keep, zero_fill=True)
    kept = texture_patchify(images, 16, keep).positions
    blanked = np.zeros_like(images)
    for image, source, cells in zip(blanked, images, kept, strict=True):
        for cell in cells:
            row, column = 16 * (cell // 4), 16 * (cell % 4)
            place = np.s_[row : row + 16, column : column + 16]
            image[place] = source[place]
    np.testing.assert_array_equal(patches, texture_patchify(blanked, 16, KeepRule("all")).patches)
    np.testing.assert_array_equal(positions[0], np.arange(16))


def test_depth_takes_the_first_blocks_alone(tiny: Geometry, random_weights: Make) -> None:
    model = detector(tiny, random_weights, 2)
    names = set(model.weights())
    assert names == {*shapes(tiny, 2, projected=False), "head.weight", "head.bias"}
    assert not any("resblocks.2" in name for name in names)


def test_weights_that_do_not_fit_are_named(tiny: Geometry, random_weights: Make) -> None:
    model = detector(tiny, random_weights)
    weights = model.weights()
    weights["surplus"] = weights.pop("head.bias")
    with pytest.raises(InputError, match=r"1 missing \(head.bias\), 1 unknown \(surplus\)"):
        model.set_weights(weights, "here")
