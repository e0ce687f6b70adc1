"""A network on OpenVINO or PyTorch: pixels -> logits.

On a CPU, OpenVINO is faster than PyTorch, most of all where the processor multiplies bfloat16. A network is translated
each time its checkpoint is loaded, so that stays the only file. PyTorch runs networks on other devices, those of timm,
and all of them where OpenVINO is missing.
"""

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from classifier.networks import Logits, Net, Pixels, Pretrained, shape_of
from classifier.pixels import CLASSES

Precision = Literal["auto", "float32"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32")
TOLERANCE = {"f32": 1e-3, "bf16": 0.05}  # of the largest logit; rounding alone gave 1e-6 and 0.01 to 0.03

# The network is compiled for each of these numbers of images, and batches are split into them, the largest first. More
# than four at once are not faster. Compiled for any number, each change of it costs 0.5 ms, which made 30 µs an image
# under load (the tutorial's Net, Intel Xeon with AMX).
BATCHES = (4, 1)

Run = Callable[[Pixels], Logits]
"""Computes logits, float32 [N,10], of pixels, uint8 [N,1,28,28] or [N,3,160,160]. Several threads may call it."""

logger = logging.getLogger(__name__)


class Runtime(NamedTuple):
    """What runs a network."""

    name: str  # openvino or pytorch
    precision: str  # bfloat16 or float32: of the products, whose sums are float32
    run: Run


def choose_runtime(network: nn.Module, device: torch.device, precision: Precision = "auto") -> Runtime:
    """The fastest runtime for `network`, which is on `device` and in evaluation mode.

    `precision` auto is bfloat16 where the processor multiplies it. If OpenVINO cannot run the network on a CPU, the log
    says why.
    """
    if device.type == "cpu" and not isinstance(network, Pretrained):
        try:
            hint = "bf16" if precision == "auto" and gains_by_bfloat16(network) else "f32"
            return Runtime("openvino", "bfloat16" if hint == "bf16" else "float32", on_openvino(network, hint))
        except Exception as error:  # the exceptions of OpenVINO have no base class of their own
            reason = str(error).partition("\n")[0]
            logger.warning("OpenVINO cannot run the network (%s); PyTorch runs it, more slowly.", reason)
    return Runtime("pytorch", "float32", on_pytorch(network, device))


def on_pytorch(network: nn.Module, device: torch.device) -> Run:
    """A function that runs `network`, which is on `device` and in evaluation mode."""

    def run(pixels: Pixels) -> Logits:
        with torch.inference_mode():
            logits: Logits = network(torch.from_numpy(pixels).to(device)).float().cpu().numpy()
        return logits

    return run


def gains_by_bfloat16(network: nn.Module) -> bool:
    """Whether this processor multiplies bfloat16, by AVX-512 or AMX, and `network` is faster and as accurate with it.

    Net is not faster, and its sigmoids near 1 would be equal.
    """
    from classifier.graph import core

    return not isinstance(network, Net) and "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def on_openvino(network: nn.Module, hint: str) -> Run:
    """A function that runs `network`, which is on the CPU and in evaluation mode, on as many threads as PyTorch would.

    The `hint` is OpenVINO's name of the precision, f32 or bf16. Raises RuntimeError if the logits differ from those of
    PyTorch, and any exception of the translation and of OpenVINO.
    """
    from classifier.graph import core, to_openvino

    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several workers would be pinned to the same core
    }
    shape = shape_of(network)
    local = threading.local()  # an inference request is not for several threads

    @cache
    def compiled(size: int) -> Any:
        return core().compile_model(to_openvino(network, size), "CPU", options)

    def request_for(size: int) -> tuple[Any, Pixels, Logits]:
        """A request of this thread, with its arrays for input and output."""
        requests: dict[int, tuple[Any, Pixels, Logits]] = vars(local).setdefault("requests", {})
        if size not in requests:
            request = compiled(size).create_infer_request()
            requests[size] = request, request.get_input_tensor().data, request.get_output_tensor().data
        return requests[size]

    def run(pixels: Pixels) -> Logits:
        if pixels.shape[1:] != shape or pixels.dtype != np.uint8:  # NumPy would broadcast or convert them
            raise ValueError(f"pixels of shape {pixels.shape} and type {pixels.dtype}, not uint8 (N, {shape})")
        logits = np.empty((len(pixels), len(CLASSES)), np.float32)
        begin = 0
        for size in BATCHES:
            while begin + size <= len(pixels):
                request, inputs, outputs = request_for(size)
                inputs[...] = pixels[begin : begin + size]
                request.infer()
                logits[begin : begin + size] = outputs
                begin += size
        return logits

    sample = np.random.default_rng(0).integers(256, size=(1, *shape), dtype=np.uint8)
    expected, found = on_pytorch(network, torch.device("cpu"))(sample), run(sample)
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    if not np.allclose(found, expected, rtol=0, atol=TOLERANCE[hint] * max(1, largest), equal_nan=True):
        raise RuntimeError("OpenVINO and PyTorch compute different logits.")
    return run
