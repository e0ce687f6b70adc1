"""Input of bulk scoring: lists a folder, a glob or Parquet files, and reads them as a data source of Ray Data.

Every picture has a number, its row: files in the order of their paths, rows of Parquet in the order of their files.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from numpy.typing import NDArray
from pyarrow import parquet
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from service.bulk_progress import Reporter
from service.settings import Settings

MAX_BYTES: int = Settings.model_fields["max_upload_bytes"].default  # of an encoded picture
MAX_BLOCK_BYTES = 8 * 2**20  # 8 MiB of pictures that are read, and sent to a scorer, at once
MAX_BLOCK_ROWS = 5_000  # pictures; a kill costs at most those of one block for each scorer
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("path", pa.string()),
        ("picture", pa.binary()),  # encoded; null with an error
        ("error", pa.string()),
    ]
)


class InputError(Exception):
    """There is nothing to score; one sentence."""


@dataclass(frozen=True)
class Files:
    """Files of pictures that are read as one block."""

    first_row: int
    paths: Sequence[str]
    bytes: int

    @property
    def rows(self) -> int:
        return len(self.paths)

    def read(self, filesystem: FileSystem, report: Callable[[int], None]) -> Iterator[pa.Table]:
        """One table of SCHEMA. A file that cannot be read has an error. `report` gets the number of each row."""
        pictures, errors = [], []
        for row, path in enumerate(self.paths, start=self.first_row):
            picture = error = None
            try:
                with filesystem.open_input_file(path) as file:
                    error = too_large(file.size())
                    picture = None if error else file.read()
            except OSError:
                error = "The file cannot be read."
            pictures.append(picture)
            errors.append(error)
            report(row)
        rows = list(range(self.first_row, self.first_row + self.rows))
        yield pa.table([rows, list(self.paths), pictures, errors], schema=SCHEMA)


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file."""

    first_row: int
    rows: int
    bytes: int
    path: str
    number: int  # in its file
    first_row_in_file: int

    def read(self, filesystem: FileSystem, report: Callable[[int], None]) -> Iterator[pa.Table]:
        """Tables of SCHEMA, of at most MAX_BLOCK_ROWS rows and about MAX_BLOCK_BYTES. A row without a picture has an
        error. `report` gets the number of the last row of each."""
        file = parquet.ParquetFile(self.path, filesystem=filesystem)
        column = picture_column(file.schema_arrow, self.path)
        columns = [column, *(["path"] if "path" in file.schema_arrow.names and column != "path" else [])]
        size, done = min(MAX_BLOCK_ROWS, max(1, MAX_BLOCK_BYTES * self.rows // max(1, self.bytes))), 0
        for batch in file.iter_batches(size, [self.number], columns, use_threads=False):
            pictures = batch.column(column)
            if pa.types.is_struct(pictures.type):
                pictures = pictures.field("bytes")
            if "path" in columns:
                paths = batch.column("path").cast(pa.string()).to_pylist()
            else:
                paths = [f"{self.path}#{self.first_row_in_file + done + number}" for number in range(len(batch))]
            found = pictures.to_pylist()
            errors = ["The row holds no picture." if each is None else too_large(len(each)) for each in found]
            rows = range(self.first_row + done, self.first_row + done + len(batch))
            kept = [None if error else each for each, error in zip(found, errors, strict=True)]
            report(rows[-1])
            yield pa.table([list(rows), paths, kept, errors], schema=SCHEMA)
            done += len(batch)


@dataclass(frozen=True)
class Listing:
    """All pictures of an input."""

    filesystem: FileSystem
    parts: Sequence[Files | RowGroup]
    digest: str  # SHA-256 of the paths, sizes and times of the files: with another digest, it is another input

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def without(self, done: NDArray[np.int64]) -> "Listing":
        """The parts of which a row is missing in `done`, row numbers in ascending order."""

        def is_missing(part: Files | RowGroup) -> bool:
            first, end = np.searchsorted(done, (part.first_row, part.first_row + part.rows))
            return bool(end - first < part.rows)

        return replace(self, parts=list(filter(is_missing, self.parts)))


class Pictures(Datasource):  # type: ignore[misc]  # Ray has no types
    """The data source of Ray Data: a read task for each part of a listing, which reports to the actor `progress`."""

    def __init__(self, listing: Listing, progress: Any) -> None:
        super().__init__()
        self.listing, self.progress = listing, progress

    def estimate_inmemory_data_size(self) -> int:
        return sum(part.bytes for part in self.listing.parts)

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        return [
            ReadTask(
                partial(part.read, self.listing.filesystem, Reporter(self.progress).read),
                BlockMetadata(num_rows=part.rows, size_bytes=part.bytes, exec_stats=None, input_files=None),
                SCHEMA,
            )
            for part in self.listing.parts
        ]


def list_pictures(address: str) -> Listing:
    """Lists a folder, with its subfolders and without hidden files, a glob, or one file. Raises InputError, OSError.

    `address` is a path, or on object storage an address that pyarrow knows, such as s3://bucket/folder. If one of the
    files ends with .parquet, only such are read.
    """
    filesystem, path = locate(address)
    files = find(filesystem, path)
    tables = [file for file in files if file.path.endswith(".parquet")]
    files = sorted(tables or files, key=lambda file: file.path)
    digest = hashlib.sha256("\n".join(f"{file.path}\t{file.size}\t{file.mtime_ns}" for file in files).encode())
    listing = Listing(filesystem, list(row_groups(filesystem, files) if tables else chunks(files)), digest.hexdigest())
    if not listing.rows:
        raise InputError(f"{address} holds no pictures.")
    return listing


def locate(address: str) -> tuple[FileSystem, str]:
    """The file system of a path or an address, and the path on it. Raises InputError."""
    if "://" not in address:
        return LocalFileSystem(), address
    try:
        filesystem, path = FileSystem.from_uri(address)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{address} is no address that pyarrow can read: {first_line(error)}") from error
    return filesystem, path


def find(filesystem: FileSystem, path: str) -> list[FileInfo]:
    """The files at a path, below it if it is a folder, or that match it if it is a glob. Raises InputError."""
    [found] = filesystem.get_file_info([path])
    if found.type == FileType.File:
        return [found]
    if found.type == FileType.Directory:
        files = filesystem.get_file_info(FileSelector(path, recursive=True))
        files = [file for file in files if not is_hidden(PurePosixPath(file.path).relative_to(path))]
    elif any(character in path for character in "*?["):
        files = filesystem.get_file_info(ArrowFSWrapper(filesystem).glob(path))
        files = [file for file in files if not is_hidden(PurePosixPath(file.base_name))]
    else:
        raise InputError(f"{path} does not exist.")
    return [file for file in files if file.type == FileType.File]


def is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def chunks(files: list[FileInfo]) -> Iterator[Files]:
    """The files in their order, MAX_BLOCK_ROWS and about MAX_BLOCK_BYTES at a time."""
    first, size = 0, 0
    for number, file in enumerate(files):
        if number > first and (number - first == MAX_BLOCK_ROWS or size + file.size > MAX_BLOCK_BYTES):
            yield Files(first, [each.path for each in files[first:number]], size)
            first, size = number, 0
        size += min(file.size, MAX_BYTES)
    if files:
        yield Files(first, [each.path for each in files[first:]], size)


def row_groups(filesystem: FileSystem, files: list[FileInfo]) -> Iterator[RowGroup]:
    """The row groups of Parquet files. Raises InputError."""
    first = 0
    for file in files:
        try:
            opened = parquet.ParquetFile(file.path, filesystem=filesystem)
        except pa.ArrowInvalid as error:
            raise InputError(f"{file.path} is no Parquet file, or is damaged.") from error
        picture_column(opened.schema_arrow, file.path)
        in_file = 0
        for number in range(opened.metadata.num_row_groups):
            group = opened.metadata.row_group(number)
            yield RowGroup(first, group.num_rows, group.total_byte_size, file.path, number, in_file)
            first += group.num_rows
            in_file += group.num_rows


def picture_column(schema: pa.Schema, path: str) -> str:
    """The column of encoded pictures: `image`, `bytes` or `picture`, else the only one that is binary, or, as datasets
    of Hugging Face have it, a struct with a field `bytes`. Raises InputError."""
    found = [field.name for field in schema if is_binary(field.type)]
    for name in ("image", "bytes", "picture"):
        if name in found:
            return name
    if len(found) != 1:
        raise InputError(f"{path} has {len(found)} binary columns; give the column of pictures the name image.")
    return str(found[0])


def is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and is_binary(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def too_large(size: int) -> str | None:
    return f"The picture has {size:,} bytes, over the limit of {MAX_BYTES:,}." if size > MAX_BYTES else None


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
