"""Trains, evaluates and tries out a Fashion-MNIST classifier; `python -m training` lists the commands."""
