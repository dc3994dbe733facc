"""The demo: its recipe, and what fetches its base and makes its data from three packages on PyPI."""
