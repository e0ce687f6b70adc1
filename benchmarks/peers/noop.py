"""A FastAPI upload endpoint that does nothing: the cost of the framework alone."""

from fastapi import FastAPI, UploadFile

app = FastAPI()


@app.post("/predict")
async def predict(file: UploadFile) -> dict[str, str]:
    return {}
