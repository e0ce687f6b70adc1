"""All that knows uvicorn: it runs the app, and the app does not know it."""
