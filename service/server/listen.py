"""Binds the socket that the service listens on; an address that is not available is reported in one sentence."""

import errno
import logging
import socket
import sys

ADVICE = {  # by the number of the error
    errno.EADDRINUSE: "end the program that listens there, or name another port with --port or SERVICE_PORT",
    errno.EACCES: "ports below 1024 need privileges, so name another with --port or SERVICE_PORT",
}
OTHER_ADVICE = "name an address of this machine with --host or SERVICE_HOST, for example 127.0.0.1, 0.0.0.0 or ::1"

logger = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to that address, which workers inherit. Logs one sentence and exits with code 1 if that fails."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no host name"
        advice = ADVICE.get(getattr(error, "errno", None) or 0, OTHER_ADVICE)
        if host.startswith("["):
            advice = f"write it without brackets, --host {host.strip('[]')}"
        logger.error("The service cannot listen on address %s, port %d (%s): %s.", host, port, reason, advice)
        sys.exit(1)
    logger.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, listener.getsockname()[1])
    listener.set_inheritable(True)
    return listener
