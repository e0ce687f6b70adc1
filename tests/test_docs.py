"""The documents agree with the code: names, links, limits and examples."""

import asyncio
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from classifier import __version__
from service import __main__ as serve
from service.app import create_app
from service.errors import ERRORS
from service.settings import PREFIX, Settings
from tests.service.conftest import started
from training import evaluate, predict, run
from training.recipes import GPU_RECIPES, RECIPES

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")))
}
PACKAGES = ("classifier", "training", "service")
CODE = "\n".join(path.read_text() for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py"))
README_LINES, README_WORDS = 150, 1_000
RUNNABLE = re.compile(r"^```(console|python) run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
EXAMPLE_SECONDS = 60.0

TERMS = (  # that a search has to find in code and documents
    "load shedding", "backpressure", "admission control", "micro-batching", "graceful shutdown", "drain", "readiness",
    "liveness", "hot reload", "slowloris", "decompression bomb", "test-time augmentation", "knowledge distillation",
    "data pruning", "InfoBatch", "temperature scaling", "mixed precision", "CUDA graph", "learning rate schedule",
    "data augmentation", "random erasing", "whitening", "Muon", "data-parallel training", "checkpoint",
    "conformal prediction", "out-of-distribution detection",
)  # fmt: skip


def document(name: str) -> str:
    return DOCUMENTS[f"docs/{name}.md"]


def ask(path: str) -> httpx.Response:
    """The answer of the application to a GET request, without a server and without a model."""

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(Settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get(path)

    return asyncio.run(get())


def anchors(name: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", DOCUMENTS[name]), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def runnable(language: str) -> list[object]:
    """The blocks of this language that are marked to be run."""
    return [
        pytest.param(body, id=f"{name}-{number}")
        for name, text in DOCUMENTS.items()
        for number, (found, body) in enumerate(RUNNABLE.findall(text))
        if found == language
    ]


@pytest.fixture(scope="module")
def service_port() -> Iterator[int]:
    """The port of a real service with the shipped checkpoint."""
    with started() as (_, client):
        assert client.base_url.port
        yield client.base_url.port


def test_the_readme_fits_on_a_page() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= README_LINES
    assert len(DOCUMENTS["README.md"].split()) <= README_WORDS


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_resolve(name: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", FENCED.sub("", DOCUMENTS[name])):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(str(path.resolve().relative_to(ROOT))), f"{target}#{anchor}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_modules_and_make_targets_exist(name: str) -> None:
    text = DOCUMENTS[name]
    for path in re.findall(r"`((?:classifier|training|service|tests|benchmarks|deploy|docs)/[\w/]*\.?\w+)`", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ((?:training|service|benchmarks)[.\w]*\w)", text):
        assert importlib.util.find_spec(module), module
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^\$ )make ([a-z-]+)\b", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("text", [CODE, "\n".join(DOCUMENTS.values())], ids=["code", "documents"])
def test_a_search_finds_a_term(text: str, term: str) -> None:
    found = term.lower() in re.sub(r"[\s#]+", " ", text).lower()
    assert found, term


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    default = Settings.model_fields[name].default
    shown = "none" if default in (None, ()) else f"`{str(default).lower() if isinstance(default, bool) else default}`"
    assert f"| `{PREFIX}{name.upper()}` | {shown} |" in document("settings")


def test_every_route_and_status_code_is_documented() -> None:
    schema = ask("/openapi.json").json()
    rows = [row.split("|")[1:-1] for row in document("http-api").splitlines() if row.startswith("|")]
    [head] = [row for row in rows if row[0].strip() == "status"]
    statuses = {row[0].strip(): row for row in rows if row[0].strip().isdigit()}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert f"`{method.upper()} {path}`" in [row[0].strip() for row in rows]
            for status in operation["responses"]:
                columns = [number for number, cell in enumerate(head) if cell.strip() == f"`{path}`"]
                assert status in statuses, f"{path} {status}"
                assert all(statuses[status][number].strip() for number in columns), f"{path} {status}"


def test_every_documented_page_exists() -> None:
    for path in re.findall(r"^\| `GET (/\S*)` \|", document("http-api"), re.MULTILINE):
        assert ask(path).status_code in (200, 307, 503), path


def test_every_metric_reason_and_alert_is_documented() -> None:
    page = ask("/metrics").text
    for name, text in re.findall(r"^# HELP (\w+) (.+)", page, re.MULTILINE):
        row = rf"\| `{name}\b[^|]*\|[^|]*\| {re.escape(text)} \|"
        assert name.endswith("_created") or re.search(row, document("operations")), name
    for status, reason in (*ERRORS.values(), (401, "unauthorized")):
        assert f"| `{reason}` | {status} |" in document("http-api"), reason
    for alert in re.findall(r"alert: (\w+)", (ROOT / "deploy/prometheus/alerts.yml").read_text()):
        assert f"| `{alert}` |" in document("operations"), alert


@pytest.mark.parametrize("name", sorted({each.name for each in (*RECIPES.values(), *GPU_RECIPES.values())}))
def test_every_recipe_is_documented(name: str) -> None:
    assert f"`{name}`" in document("training")


@pytest.mark.parametrize(
    ("command", "name"),
    [(run.main, "training"), (evaluate.main, "evaluation"), (predict.main, "evaluation"), (serve.main, "settings")],
    ids=["run", "evaluate", "predict", "service"],
)
def test_every_flag_is_documented(
    command: Callable[[list[str]], int], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command(["--help"])
    for flag in re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out):
        assert f"`{flag}" in document(name), flag


def test_the_application_and_the_package_have_one_version() -> None:
    assert ask("/openapi.json").json()["info"]["version"] == __version__


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("block", runnable("console"))
def test_a_console_block_prints_what_it_says(block: str, service_port: int) -> None:
    """`…` in the printed lines matches any text."""
    for command, expected in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        here = command.replace("localhost:8000", f"127.0.0.1:{service_port}").replace(
            ".venv/bin/python", sys.executable
        )
        process = subprocess.run(
            here, shell=True, cwd=ROOT, capture_output=True, text=True, check=True, timeout=EXAMPLE_SECONDS
        )
        pattern = ".*".join(map(re.escape, expected.strip().split("…")))
        assert re.fullmatch(pattern, process.stdout.strip(), re.DOTALL), process.stdout


@pytest.mark.parametrize("block", runnable("python"))
def test_a_python_block_runs(block: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=EXAMPLE_SECONDS
    )
    assert process.returncode == 0, process.stderr
    assert "Ankle boot" in process.stdout
