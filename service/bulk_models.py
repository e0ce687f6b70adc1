"""Checks the networks of bulk scoring: `python -m service.bulk_models CHECKPOINT [PHOTO_CHECKPOINT]`.

Prints the SHA-256 of each network by the absolute path of its file, or under `error` why one cannot be used, as JSON.
"""

import json
import sys
from pathlib import Path

from classifier.checkpoint import CheckpointError
from classifier.classifier import Classifier
from classifier.pixels import PHOTO_SHAPE, SHAPE

NETWORKS = ((SHAPE, "--checkpoint"), (PHOTO_SHAPE, "--photo-checkpoint"))  # of each argument


def main(arguments: list[str]) -> dict[str, str]:
    models = {}
    for path, (shape, flag) in zip(map(Path, arguments), NETWORKS, strict=False):
        try:
            classifier = Classifier.load(path, "cpu")
            classifier.check_shape(shape, path.name, flag)
        except CheckpointError as error:
            return {"error": error.with_path()}
        models[str(path.absolute())] = classifier.checkpoint.sha256
    return models


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
