"""Serves a Fashion-MNIST classifier over HTTP."""
