"""One step of training: a batch of images in, new weights out. On an NVIDIA GPU it is recorded once and replayed."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from training import augmentation
from training.data import Images
from training.optimizer import Muon
from training.recipes import Recipe

REHEARSALS = 3  # of a step that will be recorded: libraries choose their algorithms in the first ones


class Step:
    """Trains `network`, in place, by one batch after the other.

    A step is some hundreds of operations. A GPU has done most of them before Python asks for the next; so there, once
    `record` was called, all of them are one request, a CUDA graph.
    """

    def __init__(
        self, recipe: Recipe, network: nn.Module, training: Images, optimizer: torch.optim.Optimizer, losses: Tensor
    ) -> None:
        """`losses`, float32 [N], is given that of each training image when it is seen."""
        self.recipe = recipe
        self.network = network
        self.training = training
        self.optimizer = optimizer
        self.losses = losses
        self.device = training.pixels.device
        self.dtype = precision(recipe, self.device)
        self.generator = default_generator(self.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, chosen: Tensor, weights: Tensor) -> Tensor:
        """The step for the images `chosen`, int64 [N], and what each counts, float32 [N]; their loss, float32 []."""
        missing = self.recipe.batch_size - len(chosen)
        if self.graph is None or not 0 <= missing <= len(chosen):
            return self._run(chosen, weights)
        torch.cat([chosen, chosen[:missing]], out=self.chosen)  # filled up with images that count nothing in the loss
        torch.cat([weights, torch.zeros_like(weights[:missing])], out=self.weights)
        self.graph.replay()
        return self.loss

    def _run(self, chosen: Tensor, weights: Tensor) -> Tensor:
        pixels = augmented(self.recipe, self.training.pixels[chosen], self.generator)  # uint8 (N, 1, 28, 28)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = self.network(pixels)
        each = loss_of_each(self.recipe, logits.float(), self.training, chosen)
        loss = (each * weights).sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses[chosen] = each.detach()
        return loss.detach()

    def record(self) -> bool:
        """Records the step for a whole batch, if it can be: on an NVIDIA GPU, with the optimiser that is ours."""
        if self.device.type != "cuda" or not isinstance(self.optimizer, Muon):
            return False
        torch.backends.cudnn.benchmark = True
        for group in self.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=self.device)  # what is replayed reads its rate from there
        self.chosen = torch.arange(self.recipe.batch_size, device=self.device) % len(self.training)
        self.weights = torch.zeros(self.recipe.batch_size, device=self.device)
        network, optimizer = deepcopy((self.network, self.optimizer))
        rehearsed = Step(self.recipe, network.train(), self.training, optimizer, self.losses.clone())
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(REHEARSALS):
                rehearsed._run(self.chosen, self.weights)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.network.train()
        with torch.cuda.graph(graph):
            self.loss = self._run(self.chosen, self.weights)
        self.graph = graph
        return True


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that torch.manual_seed seeds and dropout draws from; a CPU's where the device has none to name."""
    if device.type == "cuda":
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator


def loss_of_each(recipe: Recipe, logits: Tensor, training: Images, chosen: Tensor) -> Tensor:
    """Cross-entropy, float32 [N], with the labels of the chosen images, and with their teacher's answers if they have
    one, softened on both sides (distillation, Hinton et al. 2015)."""
    labels = training.labels[chosen]
    each = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing, reduction="none")
    if training.answers is None:
        return each
    softened = (training.answers[chosen] / recipe.softness).softmax(dim=1)
    taught = functional.cross_entropy(logits / recipe.softness, softened, reduction="none") * recipe.softness**2
    return recipe.taught * taught + (1 - recipe.taught) * each


def augmented(recipe: Recipe, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The batch, uint8 [N,1,28,28], as the recipe shows it to the network."""
    if recipe.flip:
        pixels = augmentation.flip(pixels, generator)
    if recipe.shift:
        pixels = augmentation.shift(pixels, generator, recipe.shift)
    if recipe.erase:
        pixels = augmentation.erase(pixels, generator, recipe.erase)
    return pixels


def precision(recipe: Recipe, device: torch.device) -> torch.dtype:
    """bfloat16 for a recipe that allows it where the hardware multiplies it natively, else float32."""
    if recipe.precision == "float32" or device.type == "mps":
        return torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU reports AVX-512-BF16 or AMX; without them bfloat16 is emulated, and slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
