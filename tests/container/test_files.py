"""Checks of docker-compose.yml and requirements/ that need no Docker engine."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
FIXED = {"host", "port", "model"}  # settings that the image fixes; Compose maps the port and mounts the model
IN_DOCKERFILE = {"torch", "torchvision"}  # installed by the Dockerfile itself


def test_compose_passes_every_setting() -> None:
    passed = re.findall(rf"^ +- ({PREFIX}\w+)$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert set(passed) == {PREFIX + name.upper() for name in Settings.model_fields.keys() - FIXED}


def test_compose_limits_what_the_service_may_take() -> None:
    service, train = (ROOT / "docker-compose.yml").read_text().split("\n  train:\n")
    for line in (
        "pids_limit: 512", "options: {max-size: 10m, max-file: \"3\"}", "tmpfs: \"/tmp:size=64m\"", "cpus: ${CPUS:-1}",
        "mem_limit: ${MEMORY:-2g}", "memswap_limit: ${MEMORY:-2g}", "${ADDRESS:-127.0.0.1}:${PORT:-8000}:8000",
    ):  # fmt: skip
        assert line in service, line
    assert 'tmpfs: "/tmp:size=' in train
    assert "mem_limit: " in train


@pytest.mark.parametrize("index", ["", "https://index.example/whl"])
def test_torch_comes_from_the_index_that_is_named_or_not_at_all(tmp_path: Path, index: str) -> None:
    pip = tmp_path / "pip"
    pip.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexit 1\n')
    pip.chmod(0o755)
    process = subprocess.run(
        ["sh", ROOT / "docker/install-torch", "torch==9"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCH_INDEX": index},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "does not have torch==9; name another index in TORCH_INDEX." in process.stderr
    [call] = (tmp_path / "calls").read_text().splitlines()
    assert ("--index-url" in call) == bool(index)
    assert index in call


def read_pins(*names: str) -> dict[str, Requirement]:
    """The requirements of these files of requirements/; checks that each line has one version and its hashes."""
    requirements: dict[str, Requirement] = {}
    for name in names:
        text = (ROOT / f"requirements/{name}.txt").read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            pinned, *hashes = re.split(r"\s+--hash=", line)
            requirement = Requirement(pinned)
            assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), line
            assert hashes, line
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", digest) for digest in hashes), line
            assert requirements.setdefault(requirement.name, requirement) is requirement, (
                f"{requirement.name} is listed twice"
            )
    return requirements


@pytest.mark.parametrize("build", [[], ["-cuda"]], ids=["cpu", "cuda"])
@pytest.mark.parametrize("image", ["service", "train"])
def test_every_dependency_is_pinned_by_hash_to_an_allowed_version(image: str, build: list[str]) -> None:
    images = ["service", "train"] if image == "train" else ["service"]
    pinned = read_pins(*images, *(image + suffix for suffix in build))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["train"] if image == "train" else []
    for line in [*project["dependencies"], *extra]:
        requirement = Requirement(line)
        if requirement.name not in IN_DOCKERFILE:
            assert str(pinned[requirement.name].specifier).removeprefix("==") in requirement.specifier, line
    assert not IN_DOCKERFILE & pinned.keys()
    for name in pinned:
        for machine in ("x86_64", "aarch64"):
            marker = pinned[name].marker
            linux = {"sys_platform": "linux", "platform_machine": machine}
            assert marker is None or marker.evaluate(linux), f"{name} is not for {machine}"
