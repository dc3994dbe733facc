"""Rows → data frames."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from dem_build.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd


def frame(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, whole: Sequence[str] = ()
) -> pd.DataFrame:
    """A data frame, also of no rows.

    Args:
        columns: Their names.
        rows: A value for each column; None is not known.
        whole: Columns of whole numbers, some of which may not be known.

    Raises:
        UsageError: There is no pandas, which `datasets` brings along.
    """
    if find_spec("pandas") is None:
        what = "data frames need the package pandas, which is not installed"
        raise UsageError(what, hint="pip install pandas")
    import pandas as pd  # noqa: PLC0415  it takes longer to load than all of a plan

    made = pd.DataFrame.from_records([tuple(row) for row in rows], columns=list(columns))
    return made.astype(dict.fromkeys(whole, "Int64"))
