"""The usual FastAPI service: UploadFile, Pillow, torchvision's transforms, a forward pass in the route."""

from typing import Any

from fastapi import FastAPI, UploadFile

from benchmarks.peers import tutorial

app = FastAPI()
network = tutorial.load()


@app.post("/predict")
async def predict(file: UploadFile) -> dict[str, Any]:
    [prediction] = tutorial.predict(network, tutorial.read_pixels(file.file).unsqueeze(0))
    return prediction
