"""Serves a checkpoint over HTTP: `python -m service [--port 8000]`. Each flag is also a variable SERVICE_….

A flag overrides its variable.
"""

import argparse
import sys
from typing import NoReturn

from service.server.run import serve
from service.settings import PREFIX, Settings, SettingsError, load_settings


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a wrong argument in one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m service",
        description=__doc__,
        epilog=f"variables, with their defaults:\n{variables()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", metavar="H", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", metavar="P", help="port to listen on (8000)")
    parser.add_argument("--workers", metavar="N", help="processes that share the port (1)")
    parser.add_argument("--model", metavar="FILE", help="checkpoint to serve (models/model_scratch.pt)")
    parser.add_argument(
        "--photo-model", metavar="FILE", help="checkpoint of the photo network; empty: none (models/photos.pt)"
    )
    flags = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        settings = load_settings(**flags)
    except SettingsError as error:
        parser.error(str(error))
    return serve(settings, flags)


def variables() -> str:
    """A line for each setting: its environment variable, its meaning and its default."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        default = "none" if default in (None, ()) else default
        lines.append(f"  {PREFIX + name.upper():<35} {field.description} ({default})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
