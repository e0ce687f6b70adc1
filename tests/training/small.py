"""`python -m tests.training.small`: the command training.run, with one more recipe, `small`."""

import sys
from dataclasses import replace

from training import run
from training.recipes import FAST, RECIPES

# FAST, pruning and all, with a network so small that an epoch takes two seconds of one core.
SMALL = replace(FAST, name="small", arguments={"widths": (8, 16)}, batch_size=1000, epochs=3)

if __name__ == "__main__":
    RECIPES[SMALL.name] = SMALL
    sys.exit(run.main())
