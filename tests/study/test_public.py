"""What `import dem_build` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dem_build

HEAVY = ("torch", "transformers", "datasets", "pandas", "numpy", "rich", "IPython", "pydantic", "typing")


def loaded(code: str) -> list[str]:
    """Return which of the modules that take long are there after some code."""
    code = (
        f"import sys; before = {{*sys.modules}}; {code}; print(*{{*{HEAVY!r}}} & {{*sys.modules}} - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return sorted(done.stdout.split())


def test_importing_it_loads_nothing():
    assert loaded("import dem_build") == []


def test_loading_a_study_loads_neither_what_trains_nor_what_shows():
    assert loaded("import dem_build; dem_build.load") == ["pydantic", "typing"]


def test_whatever_is_public_is_there_and_documented():
    for name in dem_build.__all__:
        found = getattr(dem_build, name)
        assert name == "__version__" or found.__doc__, name
        assert name in dir(dem_build)


def test_what_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dem_build.nothing


def test_the_package_says_that_it_is_typed():
    assert (Path(dem_build.__file__).parent / "py.typed").exists()
