"""What datasets share, in lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.text import joined
from dem_build.view.text import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from dem_build.data.splits import Shared


def say_shared(found: Iterable[Shared], console: Console) -> None:
    """Print which prompts datasets share."""
    for shared in found:
        name, other = joined(shared.name), joined(shared.other)
        if shared.split == "train":
            prompts = "prompt is" if shared.count == 1 else "prompts are"
            text = f"{shared.count} {prompts} in the train split of both {name} and {other}"
            say(console, ("note: ", "dim"), text)
        else:
            rows = "row has a prompt" if shared.count == 1 else "rows have prompts"
            text = f"{shared.count} {shared.split} {rows} that {_USES[shared.other_split].format(other)}"
            say(console, ("warning: ", "yellow"), (f"data:{name}: ", "dim"), text)


_USES = {
    "train": "{} is trained on",
    "validation": "validation rows of {} have too, by which ω or a checkpoint is chosen",
    "test": "the probe {} has too, which limits the search for ω",
}
