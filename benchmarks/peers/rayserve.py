"""Ray Serve with @serve.batch: `python -m benchmarks.peers.rayserve PORT`.

It listens on the loopback address, except that Ray binds a gRPC port of the replica to all addresses. All of Ray's
processes end with this one. With RAY_SERVE_ENABLE_HA_PROXY=1, HAProxy takes the place of Ray's own proxy, and its
statistics listen on all addresses.
"""

import signal
import sys
import tempfile
from typing import Any

import ray
import torch
from fastapi import FastAPI, UploadFile
from ray import serve
from torch import Tensor

from benchmarks.peers import tutorial

MAX_BATCH = 32
BATCH_WAIT_SECONDS = 0.005
MAX_ONGOING = 256  # concurrent requests of a replica; the default of 5 would limit a batch to 5
OBJECT_STORE_BYTES = 100 * 2**20

app = FastAPI()


@serve.deployment(max_ongoing_requests=MAX_ONGOING, ray_actor_options={"num_cpus": 0})
@serve.ingress(app)
class Service:
    def __init__(self) -> None:
        self.network = tutorial.load()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def predict_batch(self, pixels: list[Tensor]) -> list[dict[str, Any]]:
        return tutorial.predict(self.network, torch.stack(pixels))

    @app.post("/predict")
    async def predict(self, file: UploadFile) -> dict[str, Any]:
        prediction: dict[str, Any] = await self.predict_batch(tutorial.read_pixels(file.file))
        return prediction


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
            deployment: Any = Service  # its decorator replaces the class by a deployment
            serve.run(deployment.bind(), logging_config={"enable_access_log": False})
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main()
