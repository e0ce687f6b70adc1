"""Runs the app under uvicorn. Only this package imports uvicorn; the app does not import this package."""
