"""A FastAPI upload endpoint that does nothing: what the framework alone costs."""

from fastapi import FastAPI, UploadFile

app = FastAPI()


@app.post("/predict")
async def predict(file: UploadFile) -> dict[str, str]:
    return {}
