"""What can be said of the container's files without a Docker engine."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
OF_THE_CONTAINER = {"host", "port", "model"}  # settings that only its outside can change
OF_THE_DOCKERFILE = {"torch", "torchvision"}


def test_compose_passes_every_setting_on() -> None:
    passed = re.findall(rf"^ +- ({PREFIX}\w+)$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert set(passed) == {PREFIX + name.upper() for name in Settings.model_fields.keys() - OF_THE_CONTAINER}


def test_the_constraints_pin_every_dependency_to_a_version_it_allows() -> None:
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["train"]]:
        requirement = Requirement(line)
        if requirement.name not in OF_THE_DOCKERFILE:
            assert pinned[requirement.name] in requirement.specifier, requirement.name
