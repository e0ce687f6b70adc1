"""One training step: forward pass in mixed precision, loss, backward pass, update. A CUDA graph on an NVIDIA GPU."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from training import augmentation
from training.data import Images
from training.distillation import distillation_loss
from training.optimizer import Muon
from training.photos import Photos, photo_batch, set_loss
from training.recipes import Recipe

WARMUP_STEPS = 3  # before the capture of a CUDA graph: libraries choose their algorithms in the first ones


class Step:
    """Trains `network`, in place, on one batch a call.

    A step is some hundreds of operations, and a GPU finishes most of them before Python launches the next. After
    `capture`, a step is one launch, that of a CUDA graph.
    """

    def __init__(
        self, recipe: Recipe, network: nn.Module, training: Images, optimizer: torch.optim.Optimizer, losses: Tensor
    ) -> None:
        """`losses`, float32 [N], receives the loss of each training image when it is used."""
        self.recipe = recipe
        self.network = network
        self.training = training
        self.optimizer = optimizer
        self.losses = losses
        self.device = training.pixels.device
        self.dtype = compute_dtype(recipe, self.device)
        self.generator = default_generator(self.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, chosen: Tensor, weights: Tensor) -> Tensor:
        """Trains on the images of the indices `chosen`, int64 [N], weighted by `weights`, float32 [N]; their loss,
        float32 []."""
        missing = self.recipe.batch_size - len(chosen)
        if self.graph is None or not 0 <= missing <= len(chosen):
            return self._run(chosen, weights)
        torch.cat([chosen, chosen[:missing]], out=self.chosen)  # padded to a full batch with images of weight 0
        torch.cat([weights, torch.zeros_like(weights[:missing])], out=self.weights)
        self.graph.replay()
        return self.loss

    def _run(self, chosen: Tensor, weights: Tensor) -> Tensor:
        losses = self._losses(chosen)
        loss = (losses * weights).sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses[chosen] = losses.detach()
        return loss.detach()

    def settle(self) -> None:
        """Makes DistributedDataParallel fix the order in which it sends gradients, before the first step.

        Otherwise it does so in the second forward pass. The rounding of a sum of three or more gradients depends on
        that order, so a resumed run would end with other weights. The network does not change.
        """
        before = deepcopy(self.network.state_dict())
        self.network.train()
        self._losses(torch.arange(2, device=self.device)).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad()
        self.network.load_state_dict(before)

    def _losses(self, chosen: Tensor) -> Tensor:
        """The loss of each chosen image, float32 [N]; each photo has a share of that of the painted images."""
        if not isinstance(self.training, Photos):
            pixels = augment(self.recipe, self.training.pixels[chosen], self.generator)  # uint8 (N, 1, 28, 28)
            return loss_per_image(self.recipe, self._logits(pixels), self.training, chosen)
        pixels, learned = photo_batch(self.recipe, self.training, chosen, self.generator)  # uint8 (N + M, 3, 160, 160)
        losses = set_loss(self._logits(pixels), learned, self.recipe.none_weight)
        photos, painted = losses.tensor_split([len(chosen)])
        return (photos + painted.sum() / len(photos)) * (len(photos) / len(losses))

    def _logits(self, pixels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits: Tensor = self.network(pixels)
        return logits.float()

    def capture(self) -> bool:
        """Captures the step of a full batch as a CUDA graph; False without an NVIDIA GPU or with another optimizer."""
        if self.device.type != "cuda" or not isinstance(self.optimizer, Muon):
            return False
        torch.backends.cudnn.benchmark = True
        for group in self.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=self.device)  # the graph reads the learning rate from this tensor
        self.chosen = torch.arange(self.recipe.batch_size, device=self.device) % len(self.training)
        self.weights = torch.zeros(self.recipe.batch_size, device=self.device)
        network, optimizer = deepcopy((self.network, self.optimizer))
        warmup = Step(self.recipe, network.train(), self.training, optimizer, self.losses.clone())
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                warmup._run(self.chosen, self.weights)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.network.train()
        with torch.cuda.graph(graph):
            self.loss = self._run(self.chosen, self.weights)
        self.graph = graph
        return True


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that torch.manual_seed seeds and dropout draws from: the GPU's own, else the CPU's."""
    if device.type == "cuda":
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator


def loss_per_image(recipe: Recipe, logits: Tensor, training: Images, chosen: Tensor) -> Tensor:
    """Cross-entropy with the labels, float32 [N], mixed with the distillation loss where there are teacher logits."""
    label_loss = functional.cross_entropy(
        logits, training.labels[chosen], label_smoothing=recipe.label_smoothing, reduction="none"
    )
    if training.teacher_logits is None:
        return label_loss
    teacher_loss = distillation_loss(logits, training.teacher_logits[chosen], recipe.distillation_temperature)
    return recipe.distillation_weight * teacher_loss + (1 - recipe.distillation_weight) * label_loss


def augment(recipe: Recipe, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Applies the recipe's data augmentation to a batch, uint8 [N,1,28,28]."""
    if recipe.flip:
        pixels = augmentation.flip(pixels, generator)
    if recipe.shift_pixels:
        pixels = augmentation.shift(pixels, generator, recipe.shift_pixels)
    if recipe.erase_probability:
        pixels = augmentation.erase(pixels, generator, recipe.erase_probability)
    return pixels


def compute_dtype(recipe: Recipe, device: torch.device) -> torch.dtype:
    """The dtype of mixed precision: bfloat16 if the recipe allows it and the hardware multiplies it, else float32."""
    if recipe.precision == "float32" or device.type == "mps":
        return torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has AVX-512-BF16 or AMX; others emulate bfloat16, which is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
