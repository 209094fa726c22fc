"""The settings that `tuneyard serve` takes from the environment are the tests' own to choose."""

import os

for _name in ("HOST", "PORT", "DATA", "API_KEY"):
    os.environ.pop(_name, None)
