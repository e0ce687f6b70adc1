"""A network on ONNX Runtime or PyTorch: pixels -> logits.

On a CPU, ONNX Runtime is faster than PyTorch for small networks. `torch.onnx.export` translates the network each time a
checkpoint is loaded, so the checkpoint stays the only file. PyTorch runs the network on other devices, and where ONNX
Runtime cannot or need not.
"""

import io
import logging
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from classifier.networks import Logits, PhotoNet, Pixels, shape_of

ONNX_OPSET = 17  # of 2022; every ONNX Runtime that pyproject.toml allows reads it
TOLERANCE = 1e-3  # of a logit, relative and absolute; rounding in float32 accounts for about 1e-5

# Above these, PyTorch runs the network. It is as fast there (recipe best: 26 ms, not 32, for a picture), and the
# export holds Python's lock, on which the event loop waits (best-gpu, 31 MB and 66 layers: 0.2 s; a network of
# 1,500 layers: 6 s).
MAX_EXPORTED_BYTES = 8 * 2**20  # 8 MiB of weights
MAX_EXPORTED_LAYERS = 72  # convolutions and linear layers, each counted once for a view

Run = Callable[[Pixels], Logits]
"""Computes logits, float32 [N,10], of pixels, uint8 [N,1,28,28]."""

logger = logging.getLogger(__name__)


def choose_runtime(network: nn.Module, device: torch.device) -> tuple[str, Run]:
    """The name of the runtime, "onnxruntime" or "pytorch", and a function that runs `network` on it.

    `network` is on `device` and in evaluation mode. If ONNX Runtime cannot run it on a CPU, the log says why.
    """
    if device.type == "cpu" and (isinstance(network, PhotoNet) or is_small(network)):
        try:
            return "onnxruntime", on_onnxruntime(network)
        except Exception as error:  # the exceptions of ONNX Runtime have no base class of their own
            reason = str(error).partition("\n")[0]
            logger.warning("ONNX Runtime cannot run the network (%s); PyTorch runs it, more slowly.", reason)
    return "pytorch", on_pytorch(network, device)


def is_small(network: nn.Module) -> bool:
    """Whether the export to ONNX takes little time."""
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules())
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    return size <= MAX_EXPORTED_BYTES and layers * getattr(network, "tta_views", 1) <= MAX_EXPORTED_LAYERS


def on_pytorch(network: nn.Module, device: torch.device) -> Run:
    """A function that runs `network`, which is on `device` and in evaluation mode."""

    def run(pixels: Pixels) -> Logits:
        with torch.inference_mode():
            logits: Logits = network(torch.from_numpy(pixels).to(device)).float().cpu().numpy()
        return logits

    return run


def on_onnxruntime(network: nn.Module) -> Run:
    """A function that runs `network`, which is on the CPU and in evaluation mode, on as many threads as PyTorch would.

    Raises RuntimeError if its logits differ from PyTorch's, and any exception of the export and of ONNX Runtime.
    """
    import onnxruntime

    from classifier.photo_onnx import photo_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would keep their cores busy
    if isinstance(network, PhotoNet):
        model, weights = photo_model(network)
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
        options.add_external_initializers(list(weights), values)
    else:
        model = to_onnx(network)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    vars(session).pop("_model_bytes", None)  # kept for a change of providers

    def run(pixels: Pixels) -> Logits:
        logits: Logits = session.run(["logits"], {"pixels": pixels})[0]
        return logits

    # The export saw two images, so a network that computes with their number is found out. One image, because ONNX
    # Runtime keeps the memory of the largest batch.
    sample = np.random.default_rng(0).integers(256, size=(1, *shape_of(network)), dtype=np.uint8)
    expected, found = on_pytorch(network, torch.device("cpu"))(sample), run(sample)
    if found.shape != expected.shape or not np.allclose(found, expected, TOLERANCE, TOLERANCE, equal_nan=True):
        raise RuntimeError("ONNX Runtime and PyTorch compute different logits.")
    return run


def to_onnx(network: nn.Module) -> bytes:
    """The serialised ONNX model of `network`, for batches of any size. Raises what torch.onnx.export raises."""
    # dynamo=False is PyTorch's older exporter. Measured on an AMD EPYC, one thread, torch 2.14, the shipped checkpoint:
    #                             load   private memory   1 picture   64 pictures, each
    #   dynamo=False             0.2 s           307 MB     0.31 ms   0.28 ms
    #   dynamo=True, onnxscript  8.1 s           448 MB     0.31 ms   0.27 ms
    #   operators by hand        0.2 s           301 MB     0.32 ms   0.28 ms   (and no network of timm)
    #   PyTorch, without export  0.0 s                      1.21 ms   0.36 ms
    samples = torch.zeros(2, *shape_of(network), dtype=torch.uint8)
    model = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # the exporter is deprecated, and uses deprecated functions
        torch.onnx.export(
            network,
            (samples,),
            model,  # type: ignore[arg-type]  # typed as a path, but with dynamo=False it may be a buffer
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_axes={"pixels": {0: "N"}, "logits": {0: "N"}},
            opset_version=ONNX_OPSET,
            dynamo=False,
        )
    return model.getvalue()
