"""schemathesis sends the running app requests that /openapi.json allows, and many that it does not."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from service.settings import Settings
from tests.service.conftest import serving

ROOT = Path(__file__).parents[2]
KEY = "swordfish"
# Random bytes satisfy "binary" and are no picture; and in a form, one field is a list of one, whatever it holds.
CONFIG = """
[generation]
database = "none"
deterministic = true

[checks.positive_data_acceptance]
expected-statuses = [200, 400, 413, 415]

[[operations]]
include-path = "/predict/batch"

[operations.checks.negative_data_rejection]
expected-statuses = [200, 400, 413, 415, 422]
"""


def run_schemathesis(client: httpx.Client, folder: Path, *flags: str, **environment: str) -> str:
    """Runs every check of schemathesis; returns its output."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    process = subprocess.run(
        [
            *(sys.executable, "-c", program, "--config-file", str(config), "run"),
            *(str(client.base_url.join("/openapi.json")), "--checks", "all", "--max-examples", "50", *flags),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-5000:]
    return process.stdout


@pytest.mark.parametrize("hooks", ["tests.service.schema_hooks", ""], ids=["pictures", "bytes"])
def test_the_app_keeps_to_its_schema(client: httpx.Client, tmp_path: Path, hooks: str) -> None:
    output = run_schemathesis(client, tmp_path, **({"SCHEMATHESIS_HOOKS": hooks} if hooks else {}))
    assert "6 selected / 6 total" in output


def test_the_app_keeps_to_its_schema_with_a_key(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"api_key": SecretStr(KEY)})) as client:
        bearer = f"Authorization: Bearer {KEY}"
        run_schemathesis(client, tmp_path, "--header", bearer, SCHEMATHESIS_HOOKS="tests.service.schema_hooks")
        schema = client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert schema["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == ("401" in operation["responses"]) == (not path.startswith("/health"))


def test_every_answer_names_its_headers(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert "securitySchemes" not in schema["components"]
    for operations in schema["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                assert "X-Request-ID" in response["headers"]
                assert ("Retry-After" in response["headers"]) == (status == "503")
