"""Weights out of every container, and errors that name what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from open_clip.model import _build_vision_tower
from torch import nn

from mpft_deploy.dataset import find_samples
from mpft_deploy.detector.backbone import Geometry, geometry, load_backbone, shapes
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.images import load_views
from mpft_deploy.spec import CLIP_MEAN, CLIP_STD
from mpft_deploy.weights import quantise

TINY = "mpft-tiny"
Weights = dict[str, torch.Tensor]


@pytest.fixture
def weights(tiny: Geometry, random_weights: Callable[..., Weights]) -> Weights:
    return random_weights(tiny)


def whole_model(weights: Weights) -> Weights:
    text = {"token_embedding.weight": torch.zeros(3, 2), "logit_scale": torch.tensor(1.0)}
    return {**text, **{f"visual.{name}": value for name, value in weights.items()}}


CONTAINERS: dict[str, Callable[[Weights, Path], None]] = {
    "tower.safetensors": lambda w, path: safetensors.torch.save_file(w, path),
    "model.safetensors": lambda w, path: safetensors.torch.save_file(whole_model(w), path),
    "tower.pt": lambda w, path: torch.save(w, path),
    "model.pt": lambda w, path: torch.save(
        {"epoch": 3, "name": "x", "state_dict": whole_model(w)}, path
    ),
    "distributed.pt": lambda w, path: torch.save(
        {"state_dict": {f"module.{k}": v for k, v in whole_model(w).items()}}, path
    ),
    "old.pt": lambda w, path: torch.save(w, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_give_the_same_weights(name: str, weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / name
    CONTAINERS[name](weights, path)
    loaded = load_backbone(f"{TINY}@{path}").weights
    assert loaded.keys() == weights.keys()
    for key, value in weights.items():
        torch.testing.assert_close(loaded[key], value, atol=0, rtol=0)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(
    suffix: str, dtype: torch.dtype, weights: Weights, tmp_path: Path
) -> None:
    path = tmp_path / f"half.{suffix}"
    halves = {key: value.to(dtype) for key, value in weights.items()}
    (torch.save if suffix == "pt" else safetensors.torch.save_file)(halves, path)
    for key, value in load_backbone(f"{TINY}@{path}").weights.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, halves[key].float())


def torchscript(weights: Weights, path: Path, size: int) -> None:
    """An archive as OpenAI's: a scripted model with `visual.` and some numbers beside it."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = open_clip.get_model_config(TINY)
            self.visual = _build_vision_tower(config["embed_dim"], config["vision_cfg"], True)
            self.visual.load_state_dict(weights)
            self.register_buffer("input_resolution", torch.tensor(size))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + self.input_resolution

    torch.jit.save(torch.jit.trace(Model().eval(), torch.zeros(1, 3, size, size)), path)


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated; its files are not
def test_torchscript_archive_as_of_openai(weights: Weights, tiny: Geometry, tmp_path: Path) -> None:
    path = tmp_path / "ViT.pt"
    torchscript(weights, path, tiny.size)
    loaded = load_backbone(f"{TINY}@{path}").weights
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)
    with pytest.raises(UsageError, match="ViT-B-16-quickgelu"):
        load_backbone(f"ViT-B-16@{path}")


def test_int8_file_has_its_projection_turned(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "int8.safetensors"
    arrays = {key: value.numpy() for key, value in weights.items()}
    arrays["proj"] = np.ascontiguousarray(arrays["proj"].T)
    safetensors.numpy.save_file(quantise(arrays, "int8"), path)
    for key, value in load_backbone(f"{TINY}@{path}").weights.items():
        torch.testing.assert_close(value, weights[key], atol=0.003, rtol=0, msg=key)


def test_wrong_weights_are_named_with_a_count(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    wrong = {k: v for k, v in weights.items() if "resblocks.2" not in k}
    wrong["proj"] = torch.zeros(64, 7)
    wrong["ln_mid.weight"] = torch.zeros(64)
    safetensors.torch.save_file(wrong, path)
    with pytest.raises(InputError) as caught:
        load_backbone(f"{TINY}@{path}")
    text = str(caught.value)
    assert str(path) in text
    assert "12 missing (transformer.resblocks.2.attn.in_proj_bias" in text
    assert "1 unknown (ln_mid.weight)" in text
    assert "proj (64, 7) instead of (64, 32)" in text


def test_other_architecture_is_an_error(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    safetensors.torch.save_file(weights, path)
    with pytest.raises(InputError, match="does not fit the architecture"):
        load_backbone(f"ViT-B-32@{path}")


@pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors"])
def test_damaged_file(name: str, tiny: Geometry, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"no weights at all")
    with pytest.raises(InputError, match="broken"):
        load_backbone(f"{TINY}@{path}")
    with pytest.raises(InputError, match="no such file"):
        load_backbone(f"{TINY}@{tmp_path / ('no-' + name)}")


def test_pickled_code_is_not_run(tiny: Geometry, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match="safetensors"):
        load_backbone(f"{TINY}@{tmp_path / 'trap.pt'}")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ViT-Z-99", "unknown to open_clip"),
        ("RN50@openai", "not a plain CLIP vision transformer"),
        ("coca_ViT-B-32", "not a plain CLIP vision transformer"),
        ("ViT-B-16@no-such-tag", "its tags are"),
        ("ViT-B-16@openai", "ViT-B-16-quickgelu"),
    ],
)
def test_names_and_tags_that_cannot_be(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load_backbone(text)


def test_download_that_fails_names_a_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentLacksError, match="local file"):
        load_backbone("ViT-B-16-quickgelu@openai")


@pytest.mark.parametrize(
    ("name", "patch", "width", "heads", "activation"),
    [
        ("ViT-B-32-quickgelu", 32, 768, 12, "quick_gelu"),
        ("ViT-B-16", 16, 768, 12, "gelu"),
        ("ViT-L-14-quickgelu", 14, 1024, 16, "quick_gelu"),
    ],
)
def test_geometry(name: str, patch: int, width: int, heads: int, activation: str) -> None:
    tower = geometry(name)
    arch = tower.architecture
    assert (tower.patch, arch.width, arch.heads, arch.activation) == (
        patch, width, heads, activation,
    )  # fmt: skip
    assert arch.hidden == 4 * width
    assert shapes(tower)["positional_embedding"] == ((224 // patch) ** 2 + 1, width)


def test_real_weights_put_like_images_together(shared: Path) -> None:
    path = shared / "backbones" / "clip-vit-b-16-openai-int8.safetensors"
    backbone = load_backbone(f"ViT-B-16-quickgelu@{path}")
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    tower = _build_vision_tower(config["embed_dim"], config["vision_cfg"], True).eval()
    tower.load_state_dict(backbone.weights)
    samples = find_samples([shared / "data" / "val"])
    samples = samples[:: len(samples) // 6][:6]
    crops = load_views([sample.path for sample in samples], 224)
    both = torch.from_numpy(np.concatenate([crops, crops[:, :, ::-1]])).float() / 255
    normalised = (both - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    with torch.no_grad():
        features = nn.functional.normalize(tower(normalised.permute(0, 3, 1, 2)), dim=1)
    cosine = features[:6] @ features[6:].T
    # An image is nearest to its own mirror image, and photographs keep apart.
    assert (cosine.argmax(1) == torch.arange(6)).all()
    assert cosine.diagonal().min() > 0.9
    assert cosine.median() < 0.8
