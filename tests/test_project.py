"""The rules of the house that can be checked."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("classifier", "service", "training", "tests", "benchmarks")
MODULES = sorted(path for room in ROOMS for path in ROOT.glob(f"{room}/**/*.py"))
MAX_LINES = 250
CLASSIFIER_MAY_IMPORT = {"torch", "numpy", "PIL", "classifier"} | sys.stdlib_module_names
CLASSIFIER_MAY_MEET = {"openvino", "safetensors", "timm"}  # imports when it has a use for it
REGISTRY_HOSTS = re.compile(r"(?:pypi|pythonhosted|deb\.debian|registry\.npmjs)\.(?:org)")


def imports(path: Path) -> Iterator[str]:
    """The modules that the file at `path` imports, wherever in it, by their full names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who knows whom"
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Name and text of every file of the project that is text; what git ignores is not of the project."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def imported_packages(package: str) -> set[str]:
    """The top-level packages that the modules of one of our packages import, wherever in a module."""
    return {name.partition(".")[0] for path in ROOT.glob(f"{package}/**/*.py") for name in imports(path)}


def test_the_service_does_not_import_training() -> None:
    assert not {"training", "tests", "benchmarks"} & imported_packages("service")


def test_training_does_not_import_the_service() -> None:
    assert not {"service", "tests", "benchmarks"} & imported_packages("training")


def test_the_classifier_imports_neither() -> None:
    assert imported_packages("classifier") <= CLASSIFIER_MAY_IMPORT | CLASSIFIER_MAY_MEET


def test_importing_the_service_loads_nothing_of_the_training() -> None:
    program = "import sys, service.app, service.server.run, service.__main__; print(*sys.modules)"
    listing = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = listing.stdout.split()
    assert "classifier.classifier" in loaded
    assert not {"torchvision", "training", "rich", "matplotlib"} & set(loaded)
    assert not CLASSIFIER_MAY_MEET & set(loaded)


def can_be_imported(path: Path) -> bool:
    """Whether a module does without the extra `cluster`, or that is installed."""
    needs_ray = re.search(r"^(?:import|from) (?:ray|pyarrow)\b", path.read_text(), re.MULTILINE)
    return not needs_ray or importlib.util.find_spec("ray") is not None


def test_importing_does_nothing(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")  # matplotlib keeps a cache there
    names = ", ".join(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if not path.is_relative_to(ROOT / "tests") and not path.is_relative_to(ROOT / "benchmarks")
        if can_be_imported(path)
    )
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['x', '--nonsense']; import {names}"
    environment = {"SERVICE_PORT": "nonsense", "PATH": "", "HOME": str(home)}
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_no_package_registry_is_named() -> None:
    named = [name for name, text in tracked_texts() if REGISTRY_HOSTS.search(text)]
    assert not named


def test_nothing_is_left_to_do() -> None:
    unfinished = re.compile(r"\b(?:TO" + "DO|FIX" + "ME|XX" + "X)\b")
    assert not [name for name, text in tracked_texts() if unfinished.search(text)]


def test_the_shipped_checkpoint_is_small_and_answers() -> None:
    from classifier.classifier import Classifier
    from classifier.preprocessing import prepare

    shipped = ROOT / "models/model_scratch.pt"
    assert shipped.stat().st_size <= 5 * 2**20
    [answer] = Classifier.load(shipped, "cpu").predict(prepare((ROOT / "shoe.png").read_bytes()).pixels[None])
    assert answer["class"] == "Ankle boot"


def test_dependencies_have_a_tested_lower_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["train"], *extras["dev"]]:
        assert ">=" in requirement or requirement.startswith(f"{project['name']}["), requirement
