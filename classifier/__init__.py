"""What training makes and the service serves: the network, its checkpoint, and the way from a picture to an answer."""

__version__ = "0.1.0"
