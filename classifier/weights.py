"""Checks that a checkpoint has the weights of its network, and that the network is within limits of size and cost."""

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from classifier.networks import ARCHITECTURES, SIDE, Pretrained, shape_of
from classifier.torch_file import MAX_BYTES, CheckpointError, shortened

# Of one image. The largest recipe, best-gpu, has 1.9 billion multiply-adds and 50,176 activations in a layer.
MAX_MULTIPLY_ADDS = 4 * 10**9  # 4 s for a batch of 32 on a core
MAX_ACTIVATIONS = 2**20  # in a layer; 128 MiB in a batch of 32


def blank_network(architecture: str, arguments: dict[str, Any], name: str) -> nn.Module:
    """The network on the meta device, which takes no memory for weights. Raises CheckpointError."""
    try:
        with torch.device("meta"):
            network = ARCHITECTURES[architecture](**arguments)
    except ImportError as error:
        raise CheckpointError(
            f"{name} needs the package {error.name}: pip install 'fashion-mnist-service[pretrained]'."
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{name} has arguments that {architecture} does not accept.") from error
    if (size := sum(tensor.nbytes for tensor in network.state_dict().values())) > MAX_BYTES:
        raise CheckpointError(f"{name} describes a network of {size:,} bytes, over the limit of {MAX_BYTES:,}.")
    return network


def check_weights(
    architecture: str, found: dict[Any, Any], expected: dict[str, Tensor], name: str
) -> dict[str, Tensor]:
    """The tensors `found`, in the dtypes of `expected`: dense, of the right shapes, finite. Raises CheckpointError."""
    if found.keys() != expected.keys():
        raise CheckpointError(
            f"{name} does not hold the {len(expected)} tensors of a {architecture}: it {difference(found, expected)}."
        )
    weights: dict[str, Tensor] = {}
    for key, like in expected.items():
        tensor = found[key]
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{name} has no tensor under {shortened(key)}.")
        if tensor.shape != like.shape:
            raise CheckpointError(
                f"{name} has {shortened(key)} of shape {list(tensor.shape)}; {architecture} expects {list(like.shape)}."
            )
        if tensor.dtype != like.dtype and not (tensor.is_floating_point() and like.is_floating_point()):
            raise CheckpointError(f"{name} has {shortened(key)} in {tensor.dtype}; expected {like.dtype}.")
        if not is_dense(tensor):
            raise CheckpointError(f"{name} has a tensor with gaps or shared elements under {shortened(key)}.")
        weights[key] = tensor.to(like.dtype)
        # Float64 holds the sum of any finite weights; torch.isfinite takes four times as long.
        if not weights[key].sum(dtype=torch.float64).isfinite():
            raise CheckpointError(f"{name} has weights that are not finite, under {shortened(key)}.")
    return weights


def difference(found: Collection[Any], expected: Collection[str]) -> str:
    """The first tensor that is missing, and the first that is too many, as the end of "it …"."""
    missing = next((f"has no {shortened(key)}" for key in expected if key not in found), "")
    unexpected = next(
        (f"has {shortened(key)}, which that network does not have" for key in found if key not in expected), ""
    )
    return " and ".join(filter(None, (missing, unexpected)))


def is_dense(tensor: Tensor) -> bool:
    """Whether each element has its own place in memory and there are no gaps. An expanded tensor is not dense."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


def check_costs(network: nn.Module, name: str) -> None:
    """Checks what a network on the meta device does with one image. Raises CheckpointError."""
    try:
        multiply_adds, activations = costs_of(network)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name} describes a network that does not take images of {SIDE}×{SIDE}.") from error
    for what, found, limit in (
        ("multiply-adds", multiply_adds, MAX_MULTIPLY_ADDS),
        ("activations in a layer", activations, MAX_ACTIVATIONS),
    ):
        if found > limit:
            raise CheckpointError(f"{name} describes a network of {found:,} {what}, over the limit of {limit:,}.")


def costs_of(network: nn.Module) -> tuple[int, int]:
    """Multiply-adds of one image, and the most activations in a layer. Raises what the network raises."""
    return costs_by_running(copy.deepcopy(network).to("meta")) if isinstance(network, Pretrained) else costs(network)


def costs(network: nn.Module) -> tuple[int, int]:
    """Multiply-adds, and the most activations in a layer, of a network whose layers run one after the other."""
    multiply_adds = activations = 0
    side = shape_of(network)[1]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            same = side + 2 * int(module.padding[0]) - module.kernel_size[0] + 1
            side = -(-side // 2) if module.stride[0] == 2 else same
            activations = max(activations, module.out_channels * side**2)
            multiply_adds += module.weight.numel() * side**2
        elif isinstance(module, nn.MaxPool2d):
            side = -(-side // 2)
        elif isinstance(module, nn.Linear):
            multiply_adds += module.weight.numel()
    return multiply_adds * getattr(network, "tta_views", 1), activations


def costs_by_running(network: nn.Module) -> tuple[int, int]:
    """The same of any network on the meta device, which computes shapes only. It imports 890 modules: 1.4 s, 150 MB."""
    multiply_adds = activations = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal multiply_adds, activations
        activations = max(activations, output.numel())
        if isinstance(module, nn.Conv2d | nn.Linear):
            multiply_adds += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with torch.device("meta"), torch.inference_mode():
        network.eval()(torch.empty(1, *shape_of(network), dtype=torch.uint8))
    return multiply_adds, activations
