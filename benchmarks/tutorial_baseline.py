"""The baseline of all training times, the tutorial's own code: `python -m benchmarks.tutorial_baseline`.

It trains as the tutorial does: torchvision's ToTensor, a DataLoader with batches of 20, 15 epochs, validation after
each. It is not tuned. Recipe `tutorial` is the same training with our data loading, and faster. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import datasets, transforms

from benchmarks.peers.tutorial import Net
from training.data import DEBIAN_DIR, SHA256, TORCHVISION_LAYOUT, find_folder, read_verified

EPOCHS = 15
BATCH_SIZE = 20  # images

Loader = DataLoader[tuple[torch.Tensor, torch.Tensor]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tutorial_baseline", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"default: {EPOCHS}")
    parser.add_argument("--data-dir", type=Path, default=DEBIAN_DIR, metavar="DIR", help=f"default: {DEBIAN_DIR}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        unpack(options.data_dir, Path(root))
        print(json.dumps(tutorial(root, options.seed, options.epochs)))
    return 0


def unpack(data_dir: Path, root: Path) -> None:
    """Writes the files that the tutorial's `download=True` writes below `root`. Raises DataError."""
    folder = find_folder(data_dir)
    if folder is None:
        sys.exit(f"{data_dir} does not hold the four files of Fashion-MNIST; name their folder with --data-dir")
    (root / TORCHVISION_LAYOUT).mkdir(parents=True)
    for name in SHA256:
        (root / TORCHVISION_LAYOUT / name).write_bytes(read_verified(folder, name))


def tutorial(root: str, seed: int, epochs: int) -> dict[str, Any]:
    """Trains and tests as the tutorial does; `seconds` is the time of training, validation and saving."""
    torch.manual_seed(seed)
    transform = transforms.ToTensor()
    train_data, valid_data = random_split(
        datasets.FashionMNIST(root, train=True, transform=transform), (48_000, 12_000)
    )
    test_data = datasets.FashionMNIST(root, train=False, transform=transform)
    train_loader = DataLoader(train_data, batch_size=BATCH_SIZE, shuffle=True)
    valid_loader = DataLoader(valid_data, batch_size=BATCH_SIZE)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Net().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.04)

    valid_loss_min = np.inf
    history, seconds = [], 0.0
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        train_loss, valid_loss = 0.0, 0.0
        model.train()
        for data, target in train_loader:
            data, target = data.to(device), target.to(device)
            optimizer.zero_grad()
            loss = criterion(model(data), target)
            loss.backward()
            optimizer.step()
            train_loss += loss.item() / len(train_loader)
        model.eval()
        with torch.no_grad():
            for data, target in valid_loader:
                data, target = data.to(device), target.to(device)
                valid_loss += criterion(model(data), target).item() / len(valid_loader)
        print(f"Epoch: {epoch}  Training Loss: {train_loss:.6f}  Validation Loss: {valid_loss:.6f}", file=sys.stderr)
        if valid_loss <= valid_loss_min:
            print(f"Validation loss decreased ({valid_loss_min:.6f} --> {valid_loss:.6f}).", file=sys.stderr)
            torch.save(model.state_dict(), f"{root}/model_scratch.pt")
            valid_loss_min = valid_loss
        seconds += time.perf_counter() - start
        history.append(
            {
                "images": len(train_data),
                "seconds": seconds,
                "validation_accuracy": accuracy(model, valid_data, device),
            }
        )

    model.load_state_dict(torch.load(f"{root}/model_scratch.pt", weights_only=True))
    return {
        "seed": seed,
        "epochs": epochs,
        "seconds": seconds,
        "test_accuracy": accuracy(model, test_data, device),
        "history": history,
    }


@torch.inference_mode()
def accuracy(model: nn.Module, images: Dataset[Any], device: torch.device) -> float:
    """The fraction of the images that are predicted correctly; not timed."""
    right = total = 0
    for data, target in DataLoader(images, batch_size=1_000):
        right += int((model(data.to(device)).argmax(dim=1).cpu() == target).sum())
        total += len(target)
    return right / total


if __name__ == "__main__":
    sys.exit(main())
