"""Receptive fields: which cells change when a pixel does."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classifier.explanation import sharing_weights
from classifier.layers import Trace, shown_layers
from classifier.networks import ConvNet, Net, PhotoNet, Pretrained, shape_of
from classifier.receptive_field import ReceptiveField, resized, window

CPU = torch.device("cpu")
TRIALS = 6  # images for each column of pixels; a maximum hides some of its inputs in each of them


def randomised(network: nn.Module) -> nn.Module:
    """With random statistics, so that batch normalisation does not hide which inputs matter."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert isinstance(module.running_var, Tensor)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def outputs(network: nn.Module, name: str, call: int, pixels: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = network.get_submodule(name).register_forward_hook(lambda _, __, output: found.append(output.clone()))
    with torch.inference_mode():
        network(pixels)
    handle.remove()
    return found[call].double()


def changed_columns(network: nn.Module, name: str, call: int, column: int) -> set[int]:
    """The columns of the maps that change when a column of pixels does."""
    generator = torch.Generator().manual_seed(column)
    pixels = torch.randint(0, 256, (TRIALS, *shape_of(network)), generator=generator, dtype=torch.uint8)
    others = pixels.clone()
    others[..., column] = 255 - others[..., column]
    difference = outputs(network, name, call, pixels) - outputs(network, name, call, others)
    return set(difference.abs().amax(dim=(0, 1, 2)).gt(1e-9).nonzero().flatten().tolist())


def seeing_columns(field: ReceptiveField, width: int, column: int) -> set[int]:
    """The columns of the maps whose receptive field holds a column of pixels."""
    return {
        cell
        for cell in range(width)
        if field.start + field.stride * cell <= column <= field.start + field.stride * cell + field.size - 1
    }


@pytest.mark.parametrize(
    "network",
    [
        Net(),
        Net(sigmoid=False, relu=True),
        ConvNet(),
        ConvNet((4, 6), (2, 1), 28),
        ConvNet((4, 6, 8), (1, 0, 1), 14),
        ConvNet((5,), (0,), 7, tta_views=6),
        PhotoNet(),
        Pretrained("test_resnet", 56),
    ],
    ids=lambda network: type(network).__name__,
)
def test_a_changed_column_of_pixels_changes_the_cells_that_see_it(network: nn.Module) -> None:
    network = randomised(network)
    trace = Trace(network, CPU)
    layers = shown_layers(network, trace)
    assert len(layers) == 3
    side = shape_of(network)[1]
    blank = torch.zeros(1, *shape_of(network), dtype=torch.uint8)
    for number, layer in enumerate(layers):
        field = trace.fields[layer.module, layer.call]
        assert field is not None
        width = outputs(network, layer.module, layer.call, blank).shape[-1]
        for column in range(0, side, 4) if side == 28 else (0, 71, side - 1):
            changed = changed_columns(network, layer.module, layer.call, column)
            seeing = seeing_columns(field, width, column)
            assert changed <= seeing, layer
            if number == 0 and not isinstance(network, Pretrained):
                assert changed == seeing, layer


def test_the_fields_of_the_tutorials_net_by_hand() -> None:
    trace = Trace(Net().eval(), CPU)
    assert trace.fields["conv1", 0] == (5, 1, 0)
    assert trace.fields["pool", 0] == (6, 2, 0)
    assert trace.fields["conv2", 0] == (14, 2, 0)
    assert trace.fields["pool", 1] == (16, 4, 0)


def test_the_fields_of_the_shipped_architecture_by_hand() -> None:
    trace = Trace(ConvNet((64, 128), (0, 1)).eval(), CPU)
    assert trace.fields["filters", 0] == (3, 1, -1)
    assert trace.fields["features.2", 0] == (10, 4, -3)
    assert trace.fields["features.4", 0] == (38, 8, -15)


@pytest.mark.parametrize(
    ("layer", "before", "after", "found"),
    [
        (nn.Conv2d(1, 1, 3, padding=1), 28, 28, (3, 1, 1)),
        (nn.Conv2d(1, 1, 3, dilation=2), 28, 24, (5, 1, 0)),
        (nn.Conv2d(1, 1, 5, padding="same"), 28, 28, (5, 1, 2)),
        (nn.Conv2d(1, 1, 5, stride=2), 160, 80, (5, 2, 1)),  # padded before by the layer itself
        (nn.MaxPool2d(2, ceil_mode=True), 7, 4, (2, 2, 0)),
        (nn.MaxPool2d(3, stride=2, padding=1), 28, 14, (3, 2, 1)),
        (nn.AvgPool2d(2), 28, 14, (2, 2, 0)),
        (nn.Conv2d(1, 1, (1, 7), padding=(0, 3)), 28, 28, (7, 1, 3)),
    ],
)
def test_a_layer_has_this_window(layer: nn.Module, before: int, after: int, found: tuple[int, int, int]) -> None:
    assert window(layer, before, after) == found


@pytest.mark.parametrize("side", [28, 32, 56, 224])
def test_a_resized_pixel_depends_on_its_neighbours(side: int) -> None:
    field = resized(28, side)
    for column in range(28):
        image = torch.zeros(1, 1, 28, 28)
        image[..., column] = 1
        larger = nn.functional.interpolate(image, (side, side), mode="bilinear")
        touched = set(larger[0, 0, 0].nonzero().flatten().tolist())
        assert touched <= seeing_columns(field, side, column)


def test_a_copy_shares_the_weights_and_not_the_hooks() -> None:
    network = ConvNet((3, 4)).eval()
    copy = sharing_weights(network)
    assert [id(tensor) for tensor in copy.parameters()] == [id(tensor) for tensor in network.parameters()]
    assert [id(tensor) for tensor in copy.buffers()] == [id(tensor) for tensor in network.buffers()]
    calls: list[int] = []
    copy.get_submodule("head").register_forward_hook(lambda *_: calls.append(1))
    network(torch.from_numpy(np.zeros((1, 1, 28, 28), np.uint8)))
    assert not calls
