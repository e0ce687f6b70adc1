"""The named recipes: every knob of a training run, one a line, with its unit."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Recipe:
    """How a classifier is made."""

    name: str
    architecture: str  # a key of model.ARCHITECTURES
    arguments: dict[str, Any] = field(default_factory=dict)  # of its constructor

    held_out: int = 2_000  # of the 60,000 training images: to validate, to choose the epoch and to calibrate on
    epochs: int = 16
    kept: Literal["lowest loss", "last"] = "lowest loss"  # which epoch's weights are kept, by validation loss
    batch_size: int = 128  # images

    optimizer: Literal["sgd", "muon", "adamw"] = "muon"
    learning_rate: float = 0.01  # the peak, where there is a schedule
    schedule: Literal["constant", "triangle"] = "triangle"
    warm_up: float = 0.001  # share of all steps in which a triangle rises
    momentum: float = 0.9  # Nesterov's, where it is not 0
    filter_learning_rate: float = 0.03  # of muon, for banks of filters: its steps are orthogonal
    filter_momentum: float = 0.6
    weight_decay: float = 5e-4  # on the weights, not on biases and normalisation
    label_smoothing: float = 0.0  # share of the target spread over all classes; spoils calibration

    taught: float = 0.0  # share of the loss that a teacher's answers make up; the labels make up the rest
    softness: float = 2.0  # temperature of both sides' probabilities where a teacher teaches
    teacher: str = ""  # the name of its checkpoint, known once it is asked

    spared: float = 0.5  # share of the easy images that an epoch leaves out; see pruning.py
    spared_until: float = 0.875  # share of the epochs; the others show all images

    flip: bool = True  # mirror half of the images
    shift: int = 1  # pixels, at most, along each axis
    erase: float = 0.0  # share of the images of which a rectangle becomes noise

    precision: Literal["float32", "auto"] = "auto"  # auto: bfloat16 where the hardware has it


TUTORIAL = Recipe(
    name="tutorial",
    architecture="Net",
    arguments={"sigmoid": True},
    held_out=12_000,
    epochs=15,
    batch_size=20,
    optimizer="sgd",
    learning_rate=0.04,
    schedule="constant",
    momentum=0.0,
    weight_decay=0.0,
    spared=0.0,
    flip=False,
    shift=0,
    precision="float32",
)
TUTORIAL_LOGITS = replace(TUTORIAL, name="tutorial-logits", arguments={"sigmoid": False})
FAST = Recipe(name="fast", architecture="ConvNet", arguments={"widths": (32, 128), "blocks": (0, 1), "tta_views": 6})
BEST = replace(
    FAST,
    name="best",
    arguments={"widths": (64, 128, 256), "blocks": (2, 2, 2), "side": 14, "dropout": 0.2, "tta_views": 6},
    epochs=130,
    kept="last",  # by then it is so sure of itself that its loss has risen, which the temperature mends
    batch_size=512,
    learning_rate=0.04,
    filter_learning_rate=0.12,
    spared_until=0.95,
    shift=3,
    erase=0.5,
)
SHIPPED = replace(
    FAST,
    name="shipped",
    arguments={"widths": (64, 128), "blocks": (0, 1)},
    epochs=240,
    kept="last",
    batch_size=256,
    learning_rate=0.028,
    filter_learning_rate=0.09,
    spared_until=0.95,
    taught=0.9,
    softness=4.0,
)
PRETRAINED = Recipe(
    name="pretrained",
    architecture="Pretrained",
    arguments={"backbone": "tf_efficientnet_lite0", "side": 56},
    epochs=4,
    optimizer="adamw",
    learning_rate=2e-3,
    warm_up=0.1,
    weight_decay=0.05,
    shift=2,
    precision="float32",  # its depthwise convolutions take twice as long in bfloat16
)

RECIPES = {recipe.name: recipe for recipe in (TUTORIAL, TUTORIAL_LOGITS, FAST, BEST, SHIPPED, PRETRAINED)}

# What two of these names mean on an NVIDIA GPU: it multiplies a thousand times as fast as two cores, and only large
# batches keep it busy.
GPU_FAST = replace(
    FAST,
    arguments={"widths": (128, 256, 512), "blocks": (1, 1, 1), "side": 14, "tta_views": 6},
    epochs=8,
    batch_size=512,
    learning_rate=0.04,
    filter_learning_rate=0.12,
)
GPU_BEST = replace(
    BEST,
    arguments={"widths": (128, 256, 512), "blocks": (2, 2, 2), "side": 14, "dropout": 0.2, "tta_views": 6},
    epochs=180,
)
GPU_RECIPES = RECIPES | {recipe.name: recipe for recipe in (GPU_FAST, GPU_BEST)}


def find_recipe(name: str, device: str) -> Recipe:
    """The recipe of that name for a type of device, such as "cpu" or "cuda"."""
    return (GPU_RECIPES if device == "cuda" else RECIPES)[name]
