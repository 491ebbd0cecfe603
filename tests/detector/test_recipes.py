"""Recipes: what the command, its settings and the documentation say of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mpft_deploy.cli.train import command
from mpft_deploy.detector.backbone import geometry
from mpft_deploy.detector.settings import TrainSettings

RESEARCH = Path(__file__).parent.parent.parent / "docs" / "research.md"
RECIPES = [
    [cell.strip(" `") for cell in line.split("|")[1:3]]
    for line in RESEARCH.read_text().splitlines()
    if line.startswith("| ViT-")
]


@pytest.mark.parametrize(("name", "options"), RECIPES, ids=[name for name, _ in RECIPES])
def test_recipes_of_the_documentation_fit_their_backbones(name: str, options: str) -> None:
    assert len(RECIPES) == 5
    context = command.make_context("train", ["DATA", "--out", "OUT", *options.split()])
    fields = TrainSettings.__struct_fields__
    recipe = TrainSettings(**{k: v for k, v in context.params.items() if k in fields})
    backbone = recipe.backbone.partition("@")[0]
    assert backbone.startswith(name.partition(",")[0].replace("/", "-"))
    assert recipe.blocks(geometry(backbone)) in (8, 16)
    assert (recipe.epochs == 0) == ("frozen" in name)
    assert bool(recipe.lora) == ("low-rank" in name)


def test_command_and_settings_have_the_same_defaults() -> None:
    """Both take them from `Recipe`; an option that states its own would differ unseen."""
    stated = {option.name: option.default for option in command.params}
    settings = {k: v for k, v in msgspec.to_builtins(TrainSettings()).items() if v is not None}
    shared = stated.keys() & settings.keys()
    assert {name: stated[name] for name in shared} == {name: settings[name] for name in shared}
    assert len(shared) >= 10
