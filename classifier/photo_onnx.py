"""PhotoNet as an ONNX model, built operator by operator.

torch.onnx.export takes 0.4 s for it and holds Python's lock meanwhile, on which the event loop waits. This takes 20 ms.
Batch normalisation is folded into the convolution before it.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from classifier.photo_network import MIDDLE, InvertedResidual, PhotoNet, Separable
from classifier.pixels import CLASSES, PHOTO_SHAPE

OPSET, IR_VERSION = 17, 8  # of 2022; every ONNX Runtime that pyproject.toml allows reads them
Array = NDArray[np.float32]


class Graph:
    """The operators and weights so far; each method appends some and returns the name of their result."""

    def __init__(self) -> None:
        self.model = onnx.ModelProto(ir_version=IR_VERSION, opset_import=[helper.make_opsetid("", OPSET)])
        self.weights: dict[str, Array] = {}  # not in the model, where 13 MB are copied four times, in 25 ms
        self.zero, self.six = self.constant(0.0), self.constant(6.0)

    def constant(self, value: float) -> str:
        name = f"c{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
        return name

    def weight(self, value: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.ascontiguousarray(value)
        location = onnx.StringStringEntryProto(key="location", value="memory")
        self.model.graph.initializer.add(
            name=name, dims=value.shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL,
            external_data=[location],
        )  # fmt: skip
        return name

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"x{len(self.model.graph.node)}"
        self.model.graph.node.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def convolution(self, x: str, conv: nn.Conv2d, norm: nn.BatchNorm2d, relu6: bool = True) -> str:
        scale = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
        filters = array(conv.weight) * scale[:, None, None, None]
        bias = array(norm.bias) - array(norm.running_mean) * scale
        x = self.node(
            "Conv", x, self.weight(filters), self.weight(bias), group=conv.groups, strides=list(conv.stride),
            auto_pad="SAME_UPPER",
        )  # fmt: skip
        return self.node("Clip", x, self.zero, self.six) if relu6 else x

    def block(self, x: str, block: nn.Module) -> str:
        if isinstance(block, Separable):
            return self.convolution(self.convolution(x, block.conv_dw, block.bn1), block.conv_pw, block.bn2, False)
        assert isinstance(block, InvertedResidual)
        y = self.convolution(x, block.conv_pw, block.bn1)
        y = self.convolution(y, block.conv_dw, block.bn2)
        y = self.convolution(y, block.conv_pwl, block.bn3, False)
        return self.node("Add", x, y) if block.residual else y


def array(tensor: object) -> Array:
    values: Array = tensor.detach().cpu().numpy()  # type: ignore[attr-defined]
    return values


def photo_model(network: PhotoNet) -> tuple[bytes, dict[str, Array]]:
    """The serialised ONNX model, `pixels`, uint8 [N,3,160,160] -> `logits`, float32 [N,10], for any N; and its weights
    by their names, which are not in it."""
    graph = Graph()
    middle = graph.constant(MIDDLE)
    x = graph.node("Cast", "pixels", to=TensorProto.FLOAT)
    x = graph.node("Div", graph.node("Sub", x, middle), middle)
    x = graph.convolution(x, network.conv_stem, network.bn1)
    for stage in network.blocks:
        assert isinstance(stage, nn.Sequential)
        for block in stage:
            x = graph.block(x, block)
    x = graph.convolution(x, network.conv_head, network.bn2)
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    matrix, bias = (graph.weight(array(each)) for each in (network.classifier.weight, network.classifier.bias))
    graph.node("Gemm", x, matrix, bias, output="logits", transB=1)
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", *PHOTO_SHAPE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(CLASSES)])
    graph.model.graph.name = "photos"
    graph.model.graph.input.append(pixels)
    graph.model.graph.output.append(logits)
    return graph.model.SerializeToString(), graph.weights
