import pytest
import torch
from torch import Tensor, channels_last, nn

from classifier.convolution import Convolution, SmallConvolution


def gradients(convolution: nn.Conv2d, x: Tensor, of_output: Tensor) -> tuple[Tensor, ...]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = convolution(x)
    return y, *torch.autograd.grad(y, [x, convolution.weight], of_output.to(y.dtype))


@pytest.mark.parametrize("side", [1, 2, 4, 7])
@pytest.mark.parametrize("channels", [(8, 16), (16, 8)])
def test_a_convolution_in_mixed_precision_has_the_gradients_of_pytorch(side: int, channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    convolution = Convolution(*channels).to(memory_format=channels_last)
    reference = nn.Conv2d(*channels, 3, padding=1, bias=False)
    reference.load_state_dict(convolution.state_dict())
    x = torch.randn(5, channels[0], side, side).contiguous(memory_format=channels_last).requires_grad_()
    of_output = torch.randn(5, channels[1], side, side)
    for found, expected in zip(gradients(convolution, x, of_output), gradients(reference, x, of_output), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())


def test_only_training_in_mixed_precision_on_small_feature_maps_has_a_gradient_of_its_own() -> None:
    convolution, x = Convolution(3, 4), torch.zeros(1, 3, 4, 4)
    own = SmallConvolution.__name__
    assert own not in str(convolution(x).grad_fn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert own in str(convolution(x).grad_fn)
        assert own not in str(convolution(torch.zeros(1, 3, 5, 4)).grad_fn)
        assert own not in str(convolution.eval()(x).grad_fn)
