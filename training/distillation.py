"""Knowledge distillation (Hinton et al. 2015): a network also learns from the class probabilities of a teacher."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from classifier.classifier import Classifier
from classifier.torch_file import shortened
from training.command import TrainingError
from training.data import Images
from training.metrics import all_logits


def load_teacher(path: Path, device: str, seed: int) -> Classifier:
    """Loads the teacher of a run with this seed from a checkpoint. Raises CheckpointError, TrainingError.

    A teacher of another seed was trained on some of this run's validation images. Its knowledge of them would reach the
    network, and a temperature fitted on them would be too low.
    """
    teacher = Classifier.load(path, device)
    teacher_seed = teacher.checkpoint.training.get("seed", seed)
    if type(teacher_seed) is not int or teacher_seed != seed:
        raise TrainingError(
            f"{path.name} was trained with seed {shortened(teacher_seed)}, on validation images of seed {seed}; "
            f"pass --seed {shortened(teacher_seed)} or a teacher of seed {seed}."
        )
    return teacher


def add_teacher_logits(images: Images, teacher: Classifier) -> Images:
    """The same images with the teacher's logits, float32 [N,10], on their device."""
    return replace(images, teacher_logits=all_logits(teacher, images).to(images.pixels.device))


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each image, float32 [N], with the teacher's probabilities; both logits are float32 [N,10].

    A temperature above 1 softens both distributions. The factor temperature² keeps the gradient's scale (section 2).
    """
    targets = (teacher_logits / temperature).softmax(dim=1)
    return functional.cross_entropy(logits / temperature, targets, reduction="none") * temperature**2
