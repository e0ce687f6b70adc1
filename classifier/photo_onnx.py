"""PhotoNet as an ONNX model, built operator by operator.

torch.onnx.export takes 0.4 s for it and holds Python's lock meanwhile, on which the event loop waits. This takes 20 ms.
Batch normalisation is folded into the convolution before it.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from classifier.photo_network import MIDDLE, InvertedResidual, PhotoNet, Separable
from classifier.pixels import CLASSES, PHOTO_SHAPE

OPSET, IR_VERSION = 17, 8  # of 2022; every ONNX Runtime that pyproject.toml allows reads them
Array = NDArray[np.float32]


class Graph:
    """The operators and weights so far; each method appends some and returns the name of their result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, value: Array | float) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def convolution(self, x: str, conv: nn.Conv2d, norm: nn.BatchNorm2d, relu6: bool = True) -> str:
        scale = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
        filters = array(conv.weight) * scale[:, None, None, None]
        bias = array(norm.bias) - array(norm.running_mean) * scale
        x = self.node(
            "Conv", x, self.weight(filters), self.weight(bias), group=conv.groups, strides=list(conv.stride),
            auto_pad="SAME_UPPER",
        )  # fmt: skip
        return self.node("Clip", x, self.weight(0.0), self.weight(6.0)) if relu6 else x

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


def photo_model(network: PhotoNet) -> bytes:
    """The serialised ONNX model: `pixels`, uint8 [N,3,160,160] -> `logits`, float32 [N,10], for any N."""
    graph = Graph()
    x = graph.node("Cast", "pixels", to=TensorProto.FLOAT)
    x = graph.node("Div", graph.node("Sub", x, graph.weight(MIDDLE)), graph.weight(MIDDLE))
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
    body = helper.make_graph(graph.nodes, "photos", [pixels], [logits], graph.weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    content: bytes = model.SerializeToString()
    return content
