"""LitServe with dynamic batching, as its documentation advises: `python -m benchmarks.peers.lit PORT`."""

import sys
from typing import Any

import litserve
import torch
from fastapi import Request
from torch import Tensor

from benchmarks.peers import tutorial

MAX_BATCH = 32
BATCH_TIMEOUT_SECONDS = 0.005


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.network = tutorial.load().to(device)

    def decode_request(self, request: Request) -> Tensor:  # LitServe passes the form because of this annotation
        return tutorial.read_pixels(request["file"].file)

    def batch(self, inputs: list[Tensor]) -> Tensor:
        return torch.stack(inputs)

    def predict(self, pixels: Tensor) -> list[dict[str, Any]]:
        return tutorial.predict(self.network, pixels)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def main() -> None:
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
