"""From a picture to a prediction: preprocessing, networks, checkpoints. Used by `training` and `service`."""

__version__ = "0.1.0"
