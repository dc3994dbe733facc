"""Make the demo's datasets beside this file, as `dem init --demo` does.

.venv/bin/python recipes/demo/make_data.py
"""

from pathlib import Path

from dem_build.demo.make import make_data

make_data(Path(__file__).parent, print)
