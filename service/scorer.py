"""Scorers of bulk pictures, actors of Ray Data: blocks of pictures in, blocks of predictions out."""

from typing import Any

import numpy as np
import pyarrow as pa
import ray

from classifier.picture import PictureError
from classifier.pixels import CLASSES, PHOTO_SHAPE, SHAPE, Pixels
from classifier.preprocessing import prepare
from classifier.uncertainty import COVERAGES
from service.bulk_progress import Reporter

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # number of the picture in the input
        ("path", pa.string()),
        ("class", pa.string()),
        ("index", pa.int8()),
        ("confidence", pa.float64()),
        ("probabilities", pa.struct([(name, pa.float64()) for name in CLASSES])),
        ("prediction_set", pa.struct([(coverage, pa.list_(pa.string())) for coverage in COVERAGES])),
        ("familiarity", pa.float64()),
        ("familiar", pa.bool_()),
        ("model", pa.string()),
        ("error", pa.string()),  # one sentence; then all from `class` to `model` is null
    ]
)


class Scorer:
    """Predicts pictures as `POST /predict` does, with the same networks. Only its process imports torch."""

    def __init__(self, models: dict[str, str], batch_size: int, progress: Any) -> None:
        """`models` gives for each checkpoint file its SHA-256; another file is refused. `progress` is the actor
        Progress. Raises CheckpointError."""
        actor = ray.get_runtime_context().get_actor_id()  # the same after a restart
        progress.reach.remote(f"scorer {actor} starts")
        from classifier.classifier import Classifier
        from service.model_store import PHOTO_BATCH

        self.classifiers = {}
        for path, sha256 in models.items():
            classifier = Classifier.load(path, "cpu", sha256)
            self.classifiers[classifier.shape] = classifier
            progress.reach.remote(f"scorer {actor} has loaded {path}")
        self.reporter = Reporter(progress)
        self.batch_sizes = {SHAPE: batch_size, PHOTO_SHAPE: PHOTO_BATCH}

    def __call__(self, block: pa.Table) -> pa.Table:
        """A table of bulk_input.SCHEMA in, a table of SCHEMA with the same rows in the same order out."""
        results: list[dict[str, Any]] = [
            {"row": row, "path": path, "error": error}
            for row, path, error in zip(*(block[name].to_pylist() for name in ("row", "path", "error")), strict=True)
        ]
        waiting: dict[tuple[int, ...], list[tuple[dict[str, Any], Pixels]]] = {shape: [] for shape in self.batch_sizes}
        for result, content in zip(results, block["picture"], strict=True):
            if not result["error"]:
                try:
                    pixels = prepare(content.as_py(), photos=PHOTO_SHAPE in self.classifiers).pixels
                except PictureError as error:
                    result["error"] = str(error)
                else:
                    waiting[pixels.shape].append((result, pixels))
                    if len(waiting[pixels.shape]) == self.batch_sizes[pixels.shape]:
                        self._predict(waiting[pixels.shape])
            self.reporter.scored()
        for batch in waiting.values():
            self._predict(batch)
        self.reporter.flush()
        return pa.Table.from_pylist(results, SCHEMA)

    def _predict(self, batch: list[tuple[dict[str, Any], Pixels]]) -> None:
        """Adds the predictions to the results in `batch`, and empties it."""
        from classifier.checkpoint import CheckpointError

        if not batch:
            return
        classifier = self.classifiers[batch[0][1].shape]
        logits = classifier.logits(np.stack([pixels for _, pixels in batch])).tolist()  # (N, 10)
        for (result, _), row in zip(batch, logits, strict=True):
            try:
                result.update(classifier.prediction(row))
            except CheckpointError as error:
                result["error"] = str(error)
        batch.clear()
