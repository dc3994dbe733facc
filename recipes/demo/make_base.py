"""Fetch the demo's base beside this file, as `dem init --demo` does.

.venv/bin/python recipes/demo/make_base.py
"""

from pathlib import Path

from dem_build.demo.make import fetch_base

fetch_base(Path(__file__).parent, print)
