"""The base that tests of composing by layers start from."""

from __future__ import annotations

import pytest
from tiny import make_base
from weight_samples import import_base


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = tmp_path_factory.mktemp("base")
    make_base(made / "base", dtype="float32")
    return made


@pytest.fixture(scope="module")
def imported(home):
    return import_base(home / "base", home / "import")
