"""What datasets share with each other, said whenever one of them was prepared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.cli.view_text import joined, say
from dem_build.errors import CorruptObjectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console

    from dem_build.data.overlap import Shared
    from dem_build.execute.outcome import Outcome
    from dem_build.store import Record, Store

__all__ = ["say_shared", "shared_by"]


def say_shared(store: Store, outcome: Outcome, console: Console) -> None:
    """Print which prompts datasets share, if this build prepared one of them."""
    prepared = [r for r in outcome.results.values() if r.action.kind == "prepare"]
    if not any(r.status.value == "ran" for r in prepared) or any(r.record is None for r in prepared):
        return
    _print(shared_by(store, outcome.records), console)


def shared_by(store: Store, records: Mapping[str, Record]) -> list[Shared]:
    """Return what the prepared datasets among the records share; a damaged one is left out."""
    # The planning path needs no numpy.
    from dem_build.data.arrays import TokenRows  # noqa: PLC0415
    from dem_build.data.overlap import shared_prompts  # noqa: PLC0415

    datasets = {}
    for name, record in records.items():
        if record.kind != "prepare":
            continue
        try:
            for output in record.outputs.values():
                store.check(output)
        except CorruptObjectError:
            continue  # it is prepared anew when it is needed next
        splits = {s: TokenRows.open(store.object_path(o.digest)) for s, o in record.outputs.items()}
        datasets[name.removeprefix("data:")] = splits
    return shared_prompts(datasets)


def _print(found: Iterable[Shared], console: Console) -> None:
    for shared in found:
        name, other = joined(shared.name), joined(shared.other)
        if shared.split == "train":
            prompts = "prompt is" if shared.count == 1 else "prompts are"
            text = f"{shared.count} {prompts} in the train split of both {name} and {other}"
            say(console, ("note: ", "dim"), text)
        else:
            rows = "row has a prompt" if shared.count == 1 else "rows have prompts"
            text = f"{shared.count} {shared.split} {rows} that {other} is trained on"
            say(console, ("warning: ", "yellow"), (f"data:{name}: ", "dim"), text)
