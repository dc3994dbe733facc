"""Put on `PYTHONPATH` by `failpoints.environment`, so that `dem` and its workers install what is asked of them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import failpoints

failpoints.install_from_environment()
