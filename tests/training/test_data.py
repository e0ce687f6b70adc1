import gzip
import hashlib
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer, ThreadingTCPServer

import pytest
import torch
from torchvision.datasets import FashionMNIST

from training import data
from training.data import BYTES, DEBIAN_DIR, SHA256, TORCHVISION_LAYOUT, DataError, Images

FILES = [f"{name}.gz" for name in SHA256]


def write_all_files(folder: Path, content: bytes = b"nonsense") -> Path:
    """Writes the four files, with the right names and any content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(gzip.compress(content))
    return folder


def numbered(n: int) -> Images:
    """Images that can be identified: all pixels and the label of image i are i."""
    labels = torch.arange(n)
    return Images(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28), labels)


def test_an_incomplete_folder_is_an_error_that_names_the_files_and_the_flag(tmp_path: Path) -> None:
    write_all_files(tmp_path)
    (tmp_path / FILES[2]).unlink()
    with pytest.raises(DataError) as caught:
        data.load(tmp_path)
    assert all(word in str(caught.value) for word in [*FILES, "--data-dir", str(tmp_path)])
    missing = FILES[2].removesuffix(".gz")
    assert str(caught.value).startswith(f"{tmp_path} does not hold {missing} (or .gz): download the four files ")
    assert "https://github.com/zalandoresearch/fashion-mnist" in str(caught.value)


@pytest.mark.parametrize("folder", [Path("missing"), Path("x" * 300), Path("file")], ids=["missing", "long", "file"])
def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"^[^\n]+\.$"):
        data.load(tmp_path / folder)


@pytest.mark.parametrize("layout", [".", "raw", str(TORCHVISION_LAYOUT)])
def test_a_wrong_digest_is_an_error_that_names_the_file_and_the_remedy(tmp_path: Path, layout: str) -> None:
    write_all_files(tmp_path / layout)
    with pytest.raises(DataError) as caught:
        data.load(tmp_path)
    digest = hashlib.sha256(b"nonsense").hexdigest()
    assert f"{FILES[0]} is not the file of Fashion-MNIST (SHA-256 {digest[:12]}…" in str(caught.value)
    assert "delete it" in str(caught.value)


def test_a_raw_file_takes_precedence_over_its_gzip(tmp_path: Path) -> None:
    write_all_files(tmp_path)
    raw = tmp_path / next(iter(SHA256))
    raw.write_bytes(b"raw")
    with pytest.raises(DataError, match=hashlib.sha256(b"raw").hexdigest()[:12]):
        data.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        lambda content: b"no gzip at all",
        lambda content: content[:10] + b"\xff" * 40 + content[50:],
        lambda content: content[:-8] + bytes(8),
    ],
    ids=["half", "header", "text", "middle", "checksum"],
)
def test_a_truncated_or_damaged_gzip_is_an_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_all_files(tmp_path) / FILES[0]
    path.write_bytes(damage(gzip.compress(torch.randint(256, (10_000,)).numpy().tobytes())))
    with pytest.raises(DataError, match=rf"{path} is truncated or damaged.*delete it and run again.*--data-dir"):
        data.load(tmp_path)


def test_decompression_stops_at_the_size_of_the_file(tmp_path: Path) -> None:
    name = "t10k-labels-idx1-ubyte"
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(BYTES[name] + 1)) + b"not gzip, never read")
    with pytest.raises(DataError, match="is not the file of Fashion-MNIST"):
        data.read_verified(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-images-idx3-ubyte", struct.pack(">4I", 0x803, 5_000, 32, 32) + bytes(5_000), "5,000 images of 32×32"),
        ("train-labels-idx1-ubyte", struct.pack(">2I", 0x801, 5_000) + bytes(5_000), "5,000 labels"),
    ],
)
def test_other_images_are_named_with_their_size(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        data.read_verified(tmp_path, name)
    assert f"{tmp_path / name} holds {words}; the file of Fashion-MNIST holds 60,000" in str(caught.value)
    assert "delete" not in str(caught.value)


def test_names_with_a_dot_are_found(tmp_path: Path) -> None:
    for name in SHA256:
        (tmp_path / name.replace("-idx", ".idx")).write_bytes(b"nonsense")
    assert data.find_folder(tmp_path) == tmp_path


@contextmanager
def mirror(server: TCPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs `server` as torchvision's only mirror."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_address[1]}/"])
    with server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that torchvision's only mirror serves."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Logs nothing."""

    with mirror(ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))), monkeypatch):
        yield folder


def assert_download_fails(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        data.download(root)
    assert all(word in str(caught.value) for word in [*FILES, "--data-dir"])
    assert "\n" not in str(caught.value)
    assert list(root.iterdir()) == []


def test_without_a_network_the_error_names_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
    assert_download_fails(tmp_path / "data")


def test_a_mirror_without_the_files_leaves_nothing_behind(tmp_path: Path, server: Path) -> None:
    assert_download_fails(tmp_path / "data")


def test_a_broken_download_leaves_nothing_behind(tmp_path: Path, server: Path) -> None:
    write_all_files(server)
    assert_download_fails(tmp_path / "data")


@pytest.mark.parametrize("response", [b"", b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nhalf"])
def test_a_mirror_with_invalid_http_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, response: bytes
) -> None:
    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(response)

    with mirror(ThreadingTCPServer(("127.0.0.1", 0), Handler), monkeypatch):
        assert_download_fails(tmp_path / "data")


def test_a_download_into_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(DataError, match=r"could not be downloaded into .*: File exists; fix that, or download"):
        data.download(tmp_path / "data")


def test_a_split_is_disjoint_and_complete() -> None:
    training, validation = data.split(numbered(100), 20, seed=0)
    assert (len(training), len(validation)) == (80, 20)
    assert sorted([*training.labels.tolist(), *validation.labels.tolist()]) == list(range(100))
    assert torch.equal(validation.pixels[:, 0, 0, 0].long(), validation.labels)


def test_a_split_depends_only_on_its_seed() -> None:
    splits = [data.split(numbered(100), 20, seed)[1].labels for seed in (0, 0, 1)]
    assert torch.equal(splits[0], splits[1])
    assert not torch.equal(splits[0], splits[2])


def test_batches_are_in_order_and_the_last_may_be_smaller() -> None:
    batches = [batch.labels.tolist() for batch in numbered(10).batches(4)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.data
def test_debians_package_has_the_real_images() -> None:
    training, test = data.load()
    assert training.pixels.shape == (60_000, 1, 28, 28)
    assert test.pixels.shape == (10_000, 1, 28, 28)
    for images in (training, test):
        assert (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64)
        assert images.labels.bincount().tolist() == [len(images) // 10] * 10


@pytest.mark.data
@pytest.mark.parametrize("layout", [".", "raw", str(TORCHVISION_LAYOUT)])
@pytest.mark.parametrize("raw", [False, True], ids=["gz", "raw"])
def test_the_files_are_found_in_every_layout(tmp_path: Path, layout: str, raw: bool) -> None:
    (tmp_path / layout).mkdir(parents=True, exist_ok=True)
    for name in SHA256:
        if raw:
            (tmp_path / layout / name).write_bytes(data.read_verified(DEBIAN_DIR, name))
        else:
            (tmp_path / layout / f"{name}.gz").symlink_to(DEBIAN_DIR / f"{name}.gz")
    _, test = data.load(tmp_path)
    assert test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


@pytest.mark.data
def test_a_download_is_verified_and_replaces_a_damaged_file(
    tmp_path: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        shutil.copy(DEBIAN_DIR / name, server)
    digests = [(name, hashlib.md5((server / name).read_bytes()).hexdigest()) for name in FILES]
    monkeypatch.setattr(FashionMNIST, "resources", digests)  # Debian's gzip files differ, their content does not
    damaged = tmp_path / "data" / TORCHVISION_LAYOUT / next(iter(SHA256))
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    folder = data.download(tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == [TORCHVISION_LAYOUT.parts[0]]
    assert len(data.read_images(folder, data.TEST_FILES)) == 10_000
