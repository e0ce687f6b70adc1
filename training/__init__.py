"""Trains, evaluates and tries out a Fashion-MNIST classifier; `python -m training` lists the commands."""

from importlib.util import find_spec

if not find_spec("rich"):  # which all commands need; a traceback would not say where it comes from
    raise SystemExit("error: the training commands need the extra train: pip install 'fashion-mnist-service[train]'")
