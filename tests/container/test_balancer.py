"""Compose's profile `scale`: three replicas behind HAProxy, found by Docker's name server."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.load import loaded
from tests.container.conftest import Project, run

IMAGE = "haproxy:3.0"
REPLICAS = 3
REQUESTS = 300  # before and after each change, at least

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800)]  # seconds; the first build downloads some gigabytes


def has_image() -> bool:
    commands = ("docker", "image", "inspect", IMAGE), ("docker", "pull", "--quiet", IMAGE)
    return any(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands)


@pytest.fixture(scope="module")
def scaled(project: Project) -> Iterator[Project]:
    if not has_image():
        pytest.skip(f"there is no image {IMAGE}, and it cannot be pulled")
    project.compose("--profile", "scale", "up", "--detach", "--wait", "--wait-timeout", "240")
    yield project
    print(project.compose("--profile", "scale", "logs", "haproxy"))


def replicas(project: Project) -> list[str]:
    return project.compose("--profile", "scale", "ps", "--quiet", "replica").split()


def replace_missing(project: Project) -> None:
    project.compose("--profile", "scale", "up", "--detach", "--no-recreate", "--wait", "replica")


def test_only_haproxy_and_the_single_service_have_a_port(scaled: Project) -> None:
    listing = scaled.compose("--profile", "scale", "ps", "--format", "{{.Service}} {{.Ports}}").splitlines()
    assert sorted(line for line in listing if "->" in line) == [
        f"haproxy 127.0.0.1:{scaled.balancer_port}->8000/tcp",
        f"service 127.0.0.1:{scaled.port}->8000/tcp",
    ]


def test_no_request_fails_while_containers_die_and_are_replaced(scaled: Project) -> None:
    with loaded(scaled.balancer_port) as load:
        load.wait_for(load.total() + REQUESTS)
        first, *_ = old = replicas(scaled)
        assert len(old) == REPLICAS
        run("docker", "kill", first)
        load.wait_for(load.total() + REQUESTS)
        replace_missing(scaled)
        for container in old:  # a new image: a rolling restart
            run("docker", "stop", container)
            run("docker", "rm", container)
            replace_missing(scaled)
            load.wait_for(load.total() + REQUESTS)
        assert len(replicas(scaled)) == REPLICAS
        assert not set(old) & set(replicas(scaled))
        load.latest.clear()
        load.wait_for(load.total() + REQUESTS)
        assert len(load.latest) == REPLICAS
    print(f"{load.stats.statuses()}, slowest {load.stats.slowest():.2f} s, {dict(load.stats.errors)}")
    assert load.stats.statuses().keys() == {200}
