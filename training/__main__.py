"""Lists the commands of training: `python -m training`."""

import sys

COMMANDS = {
    "training.run": "train a classifier and write its checkpoint",
    "training.evaluate": "evaluate a checkpoint on the test set",
    "training.predict": "predict the class of picture files",
}


def main() -> int:
    for name, purpose in COMMANDS.items():
        print(f"python -m {name:<18} {purpose}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
