"""What a model is made of, action by action, and whether anything that was withdrawn is part of it.

A key is the hash of its preimage, which has the digest of every file and every output that an action takes; a record
says which outputs the action of a key made. So who has the preimages and outputs of all actions that lead to a model
knows every byte that entered it, back to the files that came from outside, and can check that without `dem`. Only those
files can bring something back: all else was made by these actions of them.

This says nothing of what is not a file here: what the base, or a fine-tune from elsewhere, was trained on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL, MODEL_PARTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.data.splits import Shared
    from dem_build.digest import JSON, Digest, Output
    from dem_build.graph import Graph
    from dem_build.store import Record


@dataclass(frozen=True)
class Withdrawn:
    """A dataset, a probe or a vector that a recipe no longer has.

    Attributes:
        name: Its name in the recipe.
        files: Digests of the files that it came from: rows, or tensors.
        made: Digests of all that was made with it, models and their files among them, but for what is also made without
            it.
        shared: Dataset → how many of its prompts that dataset trains on, too; None where nobody has counted.
    """

    name: str
    files: tuple[Digest, ...]
    made: tuple[Digest, ...]
    shared: Mapping[str, int] | None = None

    def document(self) -> dict[str, JSON]:
        """It as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Entered:
    """Something withdrawn that an action of a model takes from outside."""

    name: str
    action: str
    digest: Digest


def withdrawn_of(
    name: str, graph: Graph, records: Iterable[tuple[str, Record]], shared: Iterable[Shared] | None
) -> Withdrawn:
    """What is to be withdrawn, as long as the recipe has it.

    Args:
        name: A dataset, a probe or a vector from elsewhere.
        graph: The recipe's graph.
        records: Actions with their records, where they have some; those of earlier builds too.
        shared: What datasets share; None where nobody has counted.
    """
    own = [action for action in (f"data:{name}", f"vector:{name}") if action in graph.actions]
    reached = set(own)
    for action in graph:  # each comes after what it takes from
        if not reached.isdisjoint(action.upstream):
            reached.add(action.name)
    files = {s.digest for action in own for s in graph.actions[action].sources if not _is_about(s.tag)}
    # A split without rows: the same bytes are made without it, and tell of nothing.
    made: dict[bool, set[Digest]] = {True: set(), False: set()}
    for maker, record in records:
        made[maker in reached].update(*(_telling(n, output) for n, output in record.outputs.items()))
    counted = None if shared is None else _trained_too(name, shared)
    return Withdrawn(name, tuple(sorted(files)), tuple(sorted(made[True] - made[False])), counted)


def _is_about(file: str) -> bool:
    """Whether a file of a model only says of what shape it is: models of one base have the same bytes there.

    Args:
        file: Its name, which is its tag where it is a source. Tags of rows have no dot before the type.
    """
    return file.endswith(".json")


def _telling(name: str, output: Output) -> Iterator[Digest]:
    """The digests of an output that tell what it was made of: its own, and those of its files."""
    # Of these every model on a base has the base's.
    if name in MODEL_PARTS and name != "weights":
        return
    yield output.digest
    # A published model is such files.
    yield from (blob.digest for file, blob in (output.files or {}).items() if not _is_about(file))


def _trained_too(name: str, shared: Iterable[Shared]) -> dict[str, int]:
    """Dataset → how many prompts of all splits of another one it trains on."""
    counts = Counter[str]()
    for found in shared:
        if found.name == name and found.other_split == "train":
            counts[found.other] += found.count
        elif found.other == name and found.split == "train":
            counts[found.name] += found.count
    return dict(counts)


def entered(withdrawn: Iterable[Withdrawn], graph: Graph, records: Mapping[str, Record]) -> list[Entered]:
    """What of the withdrawn is part of the model: of all that leads to it, judging and measuring left out."""
    # What is no file from outside was made by an action of these. Its bytes may be as they were with what is withdrawn,
    # as those of a model are in which that had an ω of 0, and they follow from nothing of it.
    taken = {name: dict.fromkeys(_outside(records[name].preimage)) for name in _leading(graph)}
    return [
        Entered(one.name, action, digest)
        for one in withdrawn
        for listed in [{*one.files, *one.made}]
        for action, found in taken.items()
        for digest in found
        if digest in listed
    ]


def _leading(graph: Graph) -> list[str]:
    """The actions that anything of the model follows from, in the graph's order."""
    found = {MODEL}
    for action in reversed(list(graph)):
        if action.name in found:
            found |= {taken.at.action for taken in action.takes if not taken.watched}
    return [name for name in graph.actions if name in found]


def _outside(preimage: JSON) -> list[Digest]:
    """The digests of the files from outside that a preimage has."""
    return [source["sha256"] for source in preimage["sources"]]


def attestation(
    recipe: str,
    withdrawn: Iterable[Withdrawn],
    found: Iterable[Entered],
    graph: Graph,
    records: Mapping[str, Record],
) -> dict[str, JSON]:
    """The document that says what a model is made of, and what of the withdrawn was found to be part of it."""
    leading = _leading(graph)
    return {
        "dem": 1,
        "recipe": recipe,
        "model": {name: output.digest for name, output in records[MODEL].outputs.items()},
        "withdrawn": [one.document() for one in withdrawn],
        "entered": [asdict(one) for one in found],
        # They read weights that were trained elsewhere, on what nobody here knows.
        "unknown": [n for n in leading if n == BASE or graph.actions[n].kind.name == "extract"],
        "actions": [
            {
                "name": name,
                "key": records[name].key,
                "preimage": records[name].preimage,
                "outputs": {output: made.digest for output, made in records[name].outputs.items()},
            }
            for name in leading
        ],
    }


def parse_withdrawn(document: JSON) -> Withdrawn:
    """What stands in a document.

    Raises:
        KeyError, TypeError: It is of another shape.
    """
    if not isinstance(document, dict):
        raise TypeError("no table")
    texts = [document["name"], *document["files"], *document["made"]]
    counts = document["shared"] or {}
    if not all(isinstance(text, str) for text in (*texts, *counts)):
        raise TypeError("no text")
    if not all(isinstance(count, int) for count in counts.values()):
        raise TypeError("no number")
    shared = None if document["shared"] is None else dict(counts)
    return Withdrawn(document["name"], tuple(document["files"]), tuple(document["made"]), shared)
