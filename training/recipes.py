"""The named recipes: all hyperparameters of a training run, one a line with its unit, and the network of a recipe."""

import io
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from classifier import torch_file
from classifier.file_formats import OLD_TORCH
from classifier.networks import ARCHITECTURES, ConvNet, PhotoNet, Pretrained
from training.command import TrainingError
from training.data import Images


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run. Fractions are from 0 to 1."""

    name: str

    # Model
    architecture: str  # a key of ARCHITECTURES
    arguments: dict[str, Any] = field(default_factory=dict)  # of its constructor

    # Data
    validation_images: int = 2_000  # of the 60,000 training images: to choose the epoch and to fit the temperature
    batch_size: int = 128  # images
    epochs: int = 16
    keep: Literal["best", "last"] = "best"  # whose weights are saved: the epoch of lowest validation loss, or the last

    # Optimizer
    optimizer: Literal["sgd", "muon", "adamw"] = "muon"
    learning_rate: float = 0.01  # at the peak of the schedule
    schedule: Literal["constant", "triangular"] = "triangular"
    warmup_fraction: float = 0.001  # fraction of all steps in which the triangular schedule rises
    momentum: float = 0.9  # Nesterov momentum; 0 for plain SGD
    muon_learning_rate: float = 0.03  # at the peak, for convolution filters, whose updates Muon orthogonalises
    muon_momentum: float = 0.6  # for the same
    weight_decay: float = 5e-4  # of weights; biases and normalisation have none
    label_smoothing: float = 0.0  # fraction of the target spread over all classes; harms calibration

    # Augmentation
    flip: bool = True  # mirrors an image with a probability of 0.5
    shift_pixels: int = 1  # pixels, the largest shift along each axis
    erase_probability: float = 0.0  # fraction of the images of which a rectangle is filled with noise

    # Pruning (InfoBatch)
    prune_ratio: float = 0.5  # fraction of the easy images that an epoch skips
    prune_until: float = 0.875  # fraction of the epochs; those after it use all images

    # Distillation
    distillation_weight: float = 0.0  # fraction of the loss that comes from the teacher; the rest comes from the labels
    distillation_temperature: float = 2.0  # divides the logits of teacher and network
    teacher: str = ""  # name of the teacher's checkpoint; set by the run

    # Photos
    fashion_images: int = 0  # images of Fashion-MNIST in a step, beside `batch_size` photos
    validation_photos: int = 300  # to fit the temperature and the thresholds; at most a tenth of all
    test_photos: int = 300  # that choose nothing; at most a tenth of all
    none_weight: float = 0.3  # of the loss of a photo of which no class is right
    pseudo_label_epochs: int = 0  # the last epochs, in which a photo of several right classes teaches the most probable
    average_decay: float = 0.0  # of the exponential moving average of the weights, which is saved; 0 for none

    # Precision
    precision: Literal["float32", "auto"] = "auto"  # auto: mixed precision with bfloat16 where the hardware supports it


TUTORIAL = Recipe(
    name="tutorial",
    architecture="Net",
    arguments={"sigmoid": True},
    validation_images=12_000,
    batch_size=20,
    epochs=15,
    optimizer="sgd",
    learning_rate=0.04,
    schedule="constant",
    momentum=0.0,
    weight_decay=0.0,
    flip=False,
    shift_pixels=0,
    prune_ratio=0.0,
    precision="float32",
)
TUTORIAL_LOGITS = replace(TUTORIAL, name="tutorial-logits", arguments={"sigmoid": False})
FAST = Recipe(
    name="fast",
    architecture="ConvNet",
    arguments={"widths": (32, 128), "blocks": (0, 1), "tta_views": 6},
    epochs=13,
    keep="last",
)
BEST = Recipe(
    name="best",
    architecture="ConvNet",
    arguments={"widths": (64, 128, 256), "blocks": (2, 2, 2), "side": 14, "dropout": 0.2, "tta_views": 6},
    batch_size=512,
    epochs=130,
    keep="last",  # it has the best accuracy; its loss has risen from overconfidence, which temperature scaling corrects
    learning_rate=0.04,
    muon_learning_rate=0.12,
    shift_pixels=3,
    erase_probability=0.5,
    prune_until=0.95,
)
SHIPPED = Recipe(
    name="shipped",
    architecture="ConvNet",
    arguments={"widths": (64, 128), "blocks": (0, 1)},
    batch_size=256,
    epochs=240,
    keep="last",
    learning_rate=0.028,
    muon_learning_rate=0.09,
    prune_until=0.95,
    distillation_weight=0.9,
    distillation_temperature=4.0,
)
PRETRAINED = Recipe(
    name="pretrained",
    architecture="Pretrained",
    arguments={"backbone": "tf_efficientnet_lite0", "side": 56},
    epochs=4,
    optimizer="adamw",
    learning_rate=2e-3,
    warmup_fraction=0.1,
    weight_decay=0.05,
    shift_pixels=2,
    precision="float32",  # its depthwise convolutions take twice as long in bfloat16
)
PHOTOS = Recipe(
    name="photos",
    architecture="PhotoNet",
    arguments={"dropout": 0.2},
    batch_size=22,
    epochs=10,
    keep="last",
    optimizer="adamw",
    learning_rate=8e-4,
    warmup_fraction=0.15,
    weight_decay=0.05,
    flip=False,  # has an augmentation of its own
    shift_pixels=0,
    prune_ratio=0.0,
    fashion_images=16,
    pseudo_label_epochs=3,
    average_decay=0.995,
    precision="float32",
)
RECIPES = {recipe.name: recipe for recipe in (TUTORIAL, TUTORIAL_LOGITS, FAST, BEST, SHIPPED, PRETRAINED, PHOTOS)}
PURPOSES = {  # one line a recipe, for --help
    "tutorial": "the tutorial's training and network, line by line",
    "tutorial-logits": "the same without its sigmoid",
    "fast": "about two minutes on two CPU cores; a larger network on an NVIDIA GPU",
    "best": "a large network of the highest accuracy, over an hour on two CPU cores; the teacher of shipped",
    "shipped": "a small network that learns from --teacher (knowledge distillation); made models/model_scratch.pt",
    "pretrained": "fine-tunes a network of timm that was trained on ImageNet",
    "photos": "fine-tunes a network of timm on --photos, an hour on two CPU cores; made models/photos.pt",
}

# On an NVIDIA GPU, which multiplies a thousand times as fast as two CPU cores and needs large batches to be busy.
FAST_GPU = Recipe(
    name="fast-gpu",
    architecture="ConvNet",
    arguments={"widths": (128, 256, 512), "blocks": (1, 1, 1), "side": 14, "tta_views": 6},
    batch_size=512,
    epochs=8,
    learning_rate=0.04,
    muon_learning_rate=0.12,
)
BEST_GPU = replace(
    BEST,
    name="best-gpu",
    arguments={"widths": (128, 256, 512), "blocks": (2, 2, 2), "side": 14, "dropout": 0.2, "tta_views": 6},
    epochs=180,
)
GPU_RECIPES = {"fast": FAST_GPU, "best": BEST_GPU}


def find_recipe(name: str, device: str) -> Recipe:
    """The recipe for `--recipe name` on a type of device, "cpu", "cuda" or "mps"; a GPU has larger ones of its own."""
    return GPU_RECIPES[name] if device == "cuda" and name in GPU_RECIPES else RECIPES[name]


def make_network(recipe: Recipe, training_images: Images, weights: Path | None = None) -> nn.Module:
    """The recipe's network on the CPU, with random initial weights.

    A ConvNet's whitening filters are computed from the training images. A pretrained network starts from ImageNet
    weights, as does the photo network, read from the file `weights` or downloaded by timm. Raises TrainingError,
    CheckpointError.
    """
    try:
        network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    except ImportError as error:
        raise TrainingError(
            f"this recipe needs the package {error.name}: pip install 'fashion-mnist-service[pretrained]'."
        ) from error
    except ValueError as error:
        raise TrainingError(f"{error}.") from error
    except RuntimeError as error:
        if recipe.architecture != "Pretrained":
            raise
        raise TrainingError(
            f"timm cannot be loaded beside PyTorch {torch.__version__}: install both from one place, "
            "as docs/development.md says."
        ) from error
    if isinstance(network, ConvNet):
        network.whiten(training_images.pixels)
    if isinstance(network, Pretrained | PhotoNet):
        state_dict = read_weights(weights) if weights else None
        try:
            network.start(state_dict)
        except ImportError as error:
            raise TrainingError(
                f"timm downloads the ImageNet weights of {network.name}: pip install "
                "'fashion-mnist-service[pretrained]', or name a file with --weights."
            ) from error
        except (OSError, RuntimeError) as error:
            source = f"{weights.name} does not hold" if weights else "timm cannot download"
            raise TrainingError(
                f"{source} the ImageNet weights of {network.name}; name a file with --weights."
            ) from error
    return network


def read_weights(path: Path) -> dict[str, Any]:
    """The state dict in a file of weights: of torch.save, also in its format before PyTorch 1.6, or safetensors.

    Raises CheckpointError.
    """
    content = torch_file.read(path, max_bytes=torch_file.TRUSTED_BYTES)
    if not content.startswith(OLD_TORCH):
        return torch_file.unpack(content, path.name, torch_file.TRUSTED_OPERATIONS)
    try:  # the user's own file, on the user's own computer: a service does not read this format
        weights: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (*torch_file.MALFORMED, pickle.UnpicklingError) as error:
        raise torch_file.CheckpointError(f"{path.name} is damaged, or has more in it than tensors.") from error
    return weights
