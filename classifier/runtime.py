"""A network compiled for the CPU by ONNX Runtime, which runs networks as small as these up to six times as fast.

torch.fx follows the network's own `forward`, and each step becomes an operator of ONNX: model.py stays the one
description of a network and the checkpoint the one file. PyTorch has the last word on whether both compute the same.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from classifier.networks import CLASSES, SIDE, Logits, Pixels

OPSET, IR_VERSION = 17, 8  # ONNX as of 2022, which every ONNX Runtime of today reads
FLOAT = 1  # ONNX's number for float32
LOWEST = -(2**63)  # as the end of a slice that runs backwards: all of it
TOLERANCE = 1e-3  # of a logit, relative and absolute; what float32 itself leaves open is near 1e-5
ELEMENTWISE: dict[Any, str] = {
    operator.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    operator.truediv: "Div",
    "neg": "Neg",
    "exp": "Exp",
}


class CannotCompile(Exception):
    """ONNX Runtime is not installed, or a network does what is not translated here; PyTorch runs it. One sentence."""


def compile_network(network: nn.Module, threads: int) -> Callable[[Pixels], Logits]:
    """A function that computes what `network` does: uint8 [N,1,28,28] -> float32 [N,10].

    `network` is on the CPU and in evaluation mode. Raises CannotCompile.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise CannotCompile(f"{error.name} is not installed.") from error
    try:
        graph = fx.symbolic_trace(network).graph
    except (fx.proxy.TraceError, AssertionError, TypeError) as error:  # it decides by what it sees
        raise CannotCompile("PyTorch cannot follow the network's steps.") from error
    spell_out_sigmoids(graph)
    steps = list(graph.nodes)[1:-1]  # without its input and its output
    output = [steps[-1].name]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would keep their cores busy
    session = onnxruntime.InferenceSession(to_onnx(network, steps), options, providers=["CPUExecutionProvider"])

    def run(pixels: Pixels) -> Logits:
        logits: Logits = session.run(output, {"pixels": pixels})[0]
        return logits

    samples = np.random.default_rng(0).integers(256, size=(2, 1, SIDE, SIDE), dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(samples)).numpy()
    if not np.allclose(run(samples), expected, TOLERANCE, TOLERANCE, equal_nan=True):
        raise CannotCompile("ONNX Runtime and PyTorch disagree on what the network computes.")
    return run


def spell_out_sigmoids(graph: fx.Graph) -> None:
    """Saturated sigmoids tie, and what breaks a tie is the last bit, where ONNX Runtime's own sigmoid approximates."""
    for step in graph.nodes:
        if step.target == "sigmoid":
            with graph.inserting_before(step):
                x: Any = fx.Proxy(step.args[0])
                step.replace_all_uses_with((1 / (1 + x.neg().exp())).node)
            graph.erase_node(step)


def to_onnx(network: nn.Module, steps: list[fx.Node]) -> bytes:
    """The serialised ONNX model of these steps of `network`. Raises CannotCompile."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def constant(value: Any, name: str) -> str:
        dtype = torch.int64 if isinstance(value, tuple) else torch.float32  # places, or numbers to compute with
        array = torch.as_tensor(value, dtype=dtype).detach().contiguous().numpy()
        constants.append(numpy_helper.from_array(array, name))
        return name

    for step in steps:
        kind, attributes, weights = translate(step, network)
        operands = (*(step.args if step.target in ELEMENTWISE else step.args[:1]), *weights)
        inputs = [
            operand.name if isinstance(operand, fx.Node) else constant(operand, f"{step.name}.{index}")
            for index, operand in enumerate(operands)
        ]
        nodes.append(helper.make_node(kind, inputs, [step.name], **attributes))
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 1, SIDE, SIDE])
    logits = helper.make_tensor_value_info(steps[-1].name, TensorProto.FLOAT, ["N", len(CLASSES)])
    graph = helper.make_graph(nodes, "network", [pixels], [logits], constants)
    opset = helper.make_opsetid("", OPSET)
    model: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString()
    return model


def translate(step: fx.Node, network: nn.Module) -> tuple[str, dict[str, Any], list[Any]]:
    """The ONNX operator for a step, its attributes and its weights. Raises CannotCompile."""
    match network.get_submodule(str(step.target)) if step.op == "call_module" else step.target:
        case nn.Conv2d() as layer if isinstance(layer.padding, tuple):
            sizes = {"strides": layer.stride, "pads": layer.padding * 2, "dilations": layer.dilation}
            bias = [] if layer.bias is None else [layer.bias]
            return "Conv", {**sizes, "group": layer.groups}, [layer.weight, *bias]
        case nn.Linear() as layer:
            return "Gemm", {"transB": 1}, [layer.weight, layer.bias]
        case nn.BatchNorm2d() as layer:
            statistics = [layer.running_mean, layer.running_var]
            return "BatchNormalization", {"epsilon": layer.eps}, [layer.weight, layer.bias, *statistics]
        case nn.MaxPool2d() as layer:
            window = {"kernel_shape": [layer.kernel_size] * 2, "strides": [layer.stride] * 2}
            return "MaxPool", {**window, "ceil_mode": int(layer.ceil_mode)}, []
        case nn.ReLU() | functional.relu:
            return "Relu", {}, []
        case nn.Dropout() | "contiguous":
            return "Identity", {}, []
        case "float":
            return "Cast", {"to": FLOAT}, []
        case "flatten":
            return "Flatten", {}, []
        case "flip" if step.args[1:] == (-1,):  # of the last axis, from its end to before its beginning
            return "Slice", {}, [(-1,), (LOWEST,), (-1,), (-1,)]
        case functional.pad if "value" in step.kwargs:
            sides: Any = step.args[1]
            left, right, top, bottom = sides
            return "Pad", {}, [(0, 0, top, left, 0, 0, bottom, right), step.kwargs["value"]]
        case "amax":
            return "ReduceMax", {"axes": step.kwargs["dim"], "keepdims": 0}, []
        case function if function in ELEMENTWISE:
            return ELEMENTWISE[function], {}, []
    raise CannotCompile(f"{step.target} has no translation to ONNX.")
