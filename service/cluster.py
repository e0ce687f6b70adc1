"""The service on Ray Serve: `serve deploy deploy/ray-serve.yaml`. The same application in a Ray cluster."""

import asyncio
import json
from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig
from starlette.types import ASGIApp, Message

from service.app import create_app
from service.settings import load_settings

START_SECONDS = 60.0  # for which a new replica may load its networks
POLL_SECONDS = 0.1
HEALTH = {"type": "http", "method": "GET", "path": "/health", "raw_path": b"/health", "query_string": b"",
          "root_path": "", "scheme": "http", "http_version": "1.1", "headers": []}  # fmt: skip


def build_app() -> ASGIApp:
    """The application, with the settings in the environment of the replica."""
    return create_app(load_settings())


class Service:
    """A replica: it is ready when its application is."""

    app: ASGIApp  # from serve.ingress
    started = False

    async def check_health(self) -> None:
        """Asks the application's own /health, so that no request reaches a replica without a network.

        Ray Serve calls this before it routes requests to a new replica, then every few seconds. Raises RuntimeError
        with the sentence of /health.
        """
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while problem := await health_problem(self.app):
            if self.started or asyncio.get_running_loop().time() > deadline:
                raise RuntimeError(problem)
            await asyncio.sleep(POLL_SECONDS)
        self.started = True


async def health_problem(app: ASGIApp) -> str:
    """The sentence of /health if it is not 200, else an empty string."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(dict(HEALTH), receive, send)
    if messages[0]["status"] == 200:
        return ""
    return str(json.loads(b"".join(message.get("body", b"") for message in messages))["detail"])


def application(_: dict[str, Any]) -> serve.Application:
    """The application for Ray Serve, as `import_path` in deploy/ray-serve.yaml names it."""
    deployment = serve.deployment(
        serve.ingress(build_app)(Service),
        name="fashion-mnist",
        autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 32},
        max_ongoing_requests=128,
        max_queued_requests=256,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=20,
        health_check_period_s=5,
        health_check_timeout_s=START_SECONDS + 5,
        ray_actor_options={"num_cpus": 1},  # on GPUs, never run: {"num_gpus": 0.25}, four replicas for each
    )
    return deployment.bind()
