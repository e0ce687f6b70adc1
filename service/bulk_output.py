"""Output of bulk scoring: OUTPUT, a folder of Parquet files, and OUTPUT.resume, with which a killed run goes on."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import dataset, parquet
from pyarrow.fs import FileSelector, FileSystem, FileType
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX
from rich.console import Console

from service.bulk_input import Listing
from service.bulk_progress import BulkError

RUN_FILE, ROWS_FOLDER = "run.json", "rows"  # in OUTPUT.resume: what the run is, and the numbers of the rows in OUTPUT
COMPLETE = "_SUCCESS"  # an empty file in OUTPUT, which readers of Parquet skip


def describe(listing: Listing, models: dict[str, str], batch_size: int) -> dict[str, Any]:
    """What a resumed run must have in common with the first."""
    return {"input": listing.digest, "network": sorted(models.values()), "batch size": batch_size}


def prepare_output(filesystem: FileSystem, output: str, run: dict[str, Any], resume: bool, console: Console) -> bool:
    """Prepares OUTPUT and OUTPUT.resume; False if a run was complete. Raises BulkError for another run."""
    record = f"{output}.resume/{RUN_FILE}"
    found = filesystem.get_file_info(FileSelector(output, allow_not_found=True))
    if found and not resume:
        raise BulkError(f"{output} is not empty; name another OUTPUT, or continue an interrupted run with --resume.")
    if f"{output}/{COMPLETE}" in [file.path for file in found]:
        console.print(f"{output} is complete.")
        return False
    if filesystem.get_file_info(record).type == FileType.NotFound:
        if found:
            raise BulkError(f"{output} is not empty, and there is no {record} to resume from; name another OUTPUT.")
        if resume:
            console.print(f"No {record}: starting anew.")
    elif resume:
        with filesystem.open_input_file(record) as file:
            before = json.loads(file.read())
        for name, value in run.items():
            if before.get(name) != value:
                raise BulkError(
                    f"{output}.resume belongs to a run with another {name} ({before.get(name)}); "
                    "repeat that run's arguments with its files as they were, or name another OUTPUT."
                )
        return True
    else:
        filesystem.delete_dir(f"{output}.resume")
    filesystem.create_dir(f"{output}.resume")
    with filesystem.open_output_stream(record) as file:
        file.write(json.dumps(run).encode())
    return True


def rows_folder(output: str) -> str:
    return f"{output}.resume/{ROWS_FOLDER}"


def rows_done(filesystem: FileSystem, output: str) -> NDArray[np.int64]:
    """The numbers of the rows whose files are committed, in ascending order."""
    files = filesystem.get_file_info(FileSelector(rows_folder(output), allow_not_found=True))
    committed = [file.path for file in files if not file.path.endswith(f"{PENDING_CHECKPOINT_SUFFIX}.parquet")]
    tables = [parquet.read_table(path, columns=["row"], filesystem=filesystem) for path in committed]
    return np.sort(pa.concat_tables(tables)["row"].to_numpy()) if tables else np.empty(0, np.int64)


def complete(filesystem: FileSystem, output: str) -> None:
    """Marks OUTPUT as complete, and deletes OUTPUT.resume."""
    with filesystem.open_output_stream(f"{output}/{COMPLETE}"):
        pass
    filesystem.delete_dir(f"{output}.resume")


def summarise(listing: Listing, filesystem: FileSystem, output: str, console: Console) -> dict[str, Any]:
    """Prints and returns how many pictures of each class and error OUTPUT has. Raises BulkError if rows are missing."""
    classes: Counter[str | None] = Counter()
    errors: Counter[str | None] = Counter()
    for batch in dataset.dataset(output, filesystem=filesystem).to_batches(columns=["class", "error"]):
        classes.update(batch["class"].to_pylist())
        errors.update(batch["error"].to_pylist())
    failed = classes.pop(None, 0)
    errors.pop(None, None)
    rows = failed + classes.total()
    for name, count in (*classes.most_common(), *errors.most_common(10)):
        console.print(f"{count:>12,}  {name}")
    if rows != listing.rows:
        raise BulkError(f"{output} has {rows:,} rows for {listing.rows:,} pictures; files there were changed.")
    return {"rows": rows, "errors": failed, "classes": dict(classes)}
