from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save as save_safetensors

from classifier.checkpoint import RECIPE_NAME
from classifier.file_formats import OLD_TORCH
from classifier.networks import ARCHITECTURES, MAX_WIDTH
from classifier.torch_file import CheckpointError
from training.command import TrainingError
from training.data import Images
from training.recipes import (
    FAST,
    GPU_RECIPES,
    PRETRAINED,
    PURPOSES,
    RECIPES,
    TUTORIAL,
    TUTORIAL_LOGITS,
    Recipe,
    find_recipe,
    make_network,
)

ALL = {f"{device} {name}": find_recipe(name, device) for device in ("cpu", "cuda") for name in RECIPES}


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_a_recipe_has_a_valid_architecture_and_name(recipe: Recipe) -> None:
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) > 10_000
    assert RECIPE_NAME.fullmatch(recipe.name)
    assert all(width <= MAX_WIDTH for width in recipe.arguments.get("widths", ()))


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_a_recipe_has_values_within_their_ranges(recipe: Recipe) -> None:
    assert 1_000 <= recipe.validation_images <= 30_000
    assert recipe.epochs >= 1
    assert recipe.batch_size >= 1
    assert recipe.learning_rate > 0
    assert 0 <= recipe.warmup_fraction < 1
    assert 0 <= recipe.label_smoothing < 1
    assert 0 <= recipe.prune_ratio < 1
    assert 0 <= recipe.distillation_weight <= 1


def test_recipes_are_found_by_their_names() -> None:
    assert {"tutorial", "tutorial-logits", "fast"} <= RECIPES.keys()
    assert all(find_recipe(name, "cpu").name == name for name in RECIPES)


def test_a_gpu_has_larger_recipes_that_say_so_in_their_names() -> None:
    assert GPU_RECIPES.keys() <= RECIPES.keys()
    assert all(find_recipe(name, "cuda").name == f"{name}-gpu" for name in GPU_RECIPES)
    assert find_recipe("fast", "cpu") == find_recipe("fast", "mps") == FAST
    assert find_recipe("tutorial", "cuda") == TUTORIAL
    assert find_recipe("shipped", "cpu") == find_recipe(
        "shipped", "cuda"
    )  # its cost when served does not depend on the device


def test_recipe_tutorial_has_the_hyperparameters_of_the_tutorial() -> None:
    assert (TUTORIAL.architecture, TUTORIAL.arguments) == ("Net", {"sigmoid": True})
    assert (TUTORIAL.validation_images, TUTORIAL.epochs, TUTORIAL.batch_size) == (12_000, 15, 20)
    assert (TUTORIAL.learning_rate, TUTORIAL.schedule, TUTORIAL.precision) == (0.04, "constant", "float32")
    assert (TUTORIAL.momentum, TUTORIAL.weight_decay, TUTORIAL.label_smoothing) == (0, 0, 0)
    assert (TUTORIAL.flip, TUTORIAL.shift_pixels, TUTORIAL.erase_probability) == (False, 0, 0)
    assert TUTORIAL.prune_ratio == 0
    assert TUTORIAL.optimizer == "sgd"


def test_tutorial_logits_differs_from_tutorial_only_in_the_sigmoid() -> None:
    assert replace(TUTORIAL_LOGITS, name="tutorial", arguments={"sigmoid": True}) == TUTORIAL


def test_a_recipe_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        FAST.epochs = 1  # type: ignore[misc]


def test_the_whitening_filters_depend_only_on_the_training_images(tiny_images: Images) -> None:
    first, again = (make_network(FAST, tiny_images).state_dict() for _ in range(2))
    other = make_network(FAST, Images(tiny_images.pixels.flip(2), tiny_images.labels)).state_dict()
    assert torch.equal(first["filters.weight"], again["filters.weight"])
    assert not torch.equal(first["filters.weight"], other["filters.weight"])
    assert not torch.equal(first["head.weight"], again["head.weight"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"backbone": "nope"}, "timm has no network 'nope'."),
        ({}, "tiny.pt does not hold the ImageNet weights of tf_efficientnet_lite0; name a file with --weights."),
    ],
    ids=["backbone", "weights"],
)
def test_a_pretrained_network_without_its_weights_is_one_sentence(
    arguments: dict[str, str], sentence: str, tiny_checkpoint: Path, tiny_images: Images
) -> None:
    recipe = replace(PRETRAINED, arguments=PRETRAINED.arguments | arguments)
    with pytest.raises(TrainingError) as caught:
        make_network(recipe, tiny_images, tiny_checkpoint)
    assert str(caught.value) == sentence


def test_a_missing_file_of_weights_is_one_sentence(tmp_path: Path, tiny_images: Images) -> None:
    with pytest.raises(CheckpointError, match=r"^missing\.pt does not exist\.$"):
        make_network(PRETRAINED, tiny_images, tmp_path / "missing.pt")


BACKBONE = "resnet10t.c3_in1k"  # with the tag of its weights


@pytest.mark.parametrize("kind", ["torch", "old torch", "safetensors"])
def test_weights_of_imagenet_are_read_from_each_format(kind: str, tmp_path: Path, tiny_images: Images) -> None:
    torch.manual_seed(0)
    weights = timm.create_model(BACKBONE).state_dict()
    path = tmp_path / "weights"
    if kind == "safetensors":
        path.write_bytes(save_safetensors(weights))
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "torch")
    recipe = replace(PRETRAINED, arguments={"backbone": BACKBONE, "side": 56})
    started = make_network(recipe, tiny_images, path).state_dict()
    assert torch.equal(started["backbone.bn1.weight"], weights["bn1.weight"])
    assert torch.equal(started["backbone.layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])


def test_a_damaged_file_of_weights_before_pytorch_1_6_is_one_sentence(tmp_path: Path, tiny_images: Images) -> None:
    (tmp_path / "weights.pth").write_bytes(OLD_TORCH + b"nothing")
    with pytest.raises(CheckpointError, match=r"^weights\.pth is damaged, or has more in it than tensors\.$"):
        make_network(PRETRAINED, tiny_images, tmp_path / "weights.pth")


def test_every_recipe_has_a_line_for_the_help() -> None:
    assert PURPOSES.keys() == RECIPES.keys()
