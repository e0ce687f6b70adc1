from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.nn import functional

from classifier.networks import (
    ARCHITECTURES,
    CLASSES,
    MAX_BLOCKS,
    MAX_WIDTH,
    SIDE,
    WHITENING_EPSILON,
    ConvNet,
    Net,
    Pooling,
    normalised,
)

TUTORIAL_SHAPES = {
    "conv1.weight": [6, 1, 5, 5],
    "conv1.bias": [6],
    "conv2.weight": [10, 6, 5, 5],
    "conv2.bias": [10],
    "ff1.weight": [56, 160],
    "ff1.bias": [56],
    "ff2.weight": [10, 56],
    "ff2.bias": [10],
}


def random_pixels(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("network", [Net(), Net(sigmoid=False), ConvNet((3, 4))])
def test_a_network_computes_float32_logits(network: nn.Module) -> None:
    logits = network.eval()(random_pixels(3))
    assert logits.shape == (3, len(CLASSES))
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("network", [Net(), ConvNet((3, 4))])
def test_the_logits_of_a_picture_do_not_depend_on_its_batch(network: nn.Module) -> None:
    pixels = random_pixels(5)
    alone = torch.cat([network.eval()(picture[None]) for picture in pixels])
    torch.testing.assert_close(network(pixels), alone)


def test_net_has_exactly_the_tensors_of_the_tutorial() -> None:
    state_dict = Net().state_dict()
    assert {name: list(tensor.shape) for name, tensor in state_dict.items()} == TUTORIAL_SHAPES
    assert sum(tensor.numel() for tensor in state_dict.values()) == 11_252


def test_net_computes_the_same_as_the_tutorial() -> None:
    network, pixels = Net(), random_pixels(4)
    weights = network.state_dict()
    x = pixels.float() / 255
    for name in ("conv1", "conv2"):
        x = functional.max_pool2d(functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"]), 2, 2)
    x = functional.linear(x.flatten(1), weights["ff1.weight"], weights["ff1.bias"]).relu()
    expected = functional.linear(x, weights["ff2.weight"], weights["ff2.bias"]).sigmoid()
    torch.testing.assert_close(network(pixels), expected)


def test_without_sigmoid_net_returns_the_input_of_the_sigmoid() -> None:
    with_sigmoid, without = Net(), Net(sigmoid=False)
    without.load_state_dict(with_sigmoid.state_dict())
    torch.testing.assert_close(without(random_pixels(4)).sigmoid(), with_sigmoid(random_pixels(4)))


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("Net", {"sigmoid": "no"}),
        ("Net", {"sigmoid": None}),
        ("ConvNet", {"widths": (0, 1)}),
        ("ConvNet", {"widths": (1, MAX_WIDTH + 1)}),
        ("ConvNet", {"widths": (1.0, 1)}),
        ("ConvNet", {"widths": (1, 1, 1)}),
        ("ConvNet", {"blocks": (0, -1)}),
        ("ConvNet", {"blocks": (0, MAX_BLOCKS + 1)}),
        ("ConvNet", {"blocks": (1,)}),
        ("ConvNet", {"blocks": {0: 10**12, 1: 0}}),
        ("ConvNet", {"widths": (1,) * 5, "blocks": (0,) * 5}),
        ("ConvNet", {"widths": (), "blocks": ()}),
        ("ConvNet", {"side": 4}),
        ("ConvNet", {"side": 14.0}),
        ("ConvNet", {"tta_views": 3}),
        ("ConvNet", {"tta_views": 2.0}),
        ("ConvNet", {"dropout": -0.1}),
        ("ConvNet", {"dropout": torch.ones(1)}),
        ("ConvNet", {"dropout": float("nan")}),
    ],
)
def test_a_network_refuses_invalid_arguments(architecture: str, arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        ARCHITECTURES[architecture](**arguments)


def test_dropout_acts_in_training_mode_only() -> None:
    network = ConvNet((3, 4), dropout=0.5)
    pixels = random_pixels(8)
    assert not torch.equal(network(pixels), network(pixels))
    network.eval()
    assert torch.equal(network(pixels), network(pixels))


def test_test_time_augmentation_averages_the_logits_of_the_views() -> None:
    network = ConvNet((3, 4)).eval()
    pixels = random_pixels(5)
    views = [pixels, functional.pad(pixels, (1, -1, 1, -1)), functional.pad(pixels, (-1, 1, -1, 1))]
    views += [view.flip(-1) for view in views]
    logits = torch.stack([network(view) for view in views])
    network.tta_views = 6
    torch.testing.assert_close(network(pixels), logits.mean(dim=0))
    network.tta_views = 2
    torch.testing.assert_close(network(pixels), logits[[0, 3]].mean(dim=0))


def test_the_whitening_filters_whiten_patches_and_have_both_signs() -> None:
    network = ConvNet()
    uneven = (random_pixels(500).float() ** 2 / 255).to(torch.uint8)
    smooth = functional.avg_pool2d(uneven.float(), 3, stride=1, padding=1).to(torch.uint8)
    network.whiten(smooth)
    with torch.inference_mode():
        filtered = network.filters(normalised(smooth))[:, :, 1:-1, 1:-1]  # without padding
    components = filtered[:, :9].transpose(0, 1).flatten(1)
    covariance = components.cov()
    assert torch.allclose(components.mean(dim=1), torch.zeros(9), atol=1e-2)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-2
    patches = functional.unfold(normalised(smooth), 3).mT.flatten(0, 1)
    variances = torch.linalg.eigvalsh(patches.T.cov())
    torch.testing.assert_close(covariance.diag(), variances / (variances + WHITENING_EPSILON), atol=1e-2, rtol=0)
    torch.testing.assert_close(filtered[:, 9:], -filtered[:, :9])
    assert not any(parameter.requires_grad for parameter in network.filters.parameters())


@pytest.mark.parametrize(
    ("side", "sizes"),
    [
        (7, [28, 14, 7, 7, 4, 4]),
        (14, [28, 14, 14, 14, 7, 7]),
        (28, [28, 28, 28, 28, 14, 14]),
    ],
)
def test_each_stage_halves_the_side_of_its_feature_maps(side: Literal[28, 14, 7], sizes: list[int]) -> None:
    network = ConvNet((3, 4), (1, 2), side).eval()
    found: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: found.append(output.shape[-1]))
    network(random_pixels(2))
    assert found == sizes


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("side", [28, 14, 7])
def test_any_number_of_stages_gives_logits(stages: int, side: Literal[28, 14, 7]) -> None:
    network = ConvNet((3,) * stages, (1,) * stages, side).eval()
    assert network(random_pixels(2)).shape == (2, len(CLASSES))


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 3, 7, 7), (2, 3, 14, 7), (2, 3, 2, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooling_is_the_maximum_of_2_by_2_points_with_and_without_a_gradient(
    shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=memory_format)
    expected = functional.max_pool2d(x, 2, ceil_mode=True)
    assert torch.equal(Pooling()(x), expected)
    pooled = Pooling()(x.requires_grad_())
    assert torch.equal(pooled, expected)
    pooled.sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == expected.numel()


@pytest.mark.parametrize("tta_views", [1, 2, 6])
def test_one_view_leaves_out_test_time_augmentation(tta_views: Literal[1, 2, 6]) -> None:
    network = ConvNet((3, 4), tta_views=tta_views).eval()
    logits = network.one_view(random_pixels(4))
    assert torch.equal(logits, network(random_pixels(4))) == (tta_views == 1)
    network.tta_views = 1
    assert torch.equal(logits, network(random_pixels(4)))
