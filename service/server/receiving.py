"""Which part of a request a connection receives."""

from enum import Enum


class Receiving(Enum):
    """The part of a request that is being received."""

    NOTHING = 0
    HEAD = 1
    BODY = 2
