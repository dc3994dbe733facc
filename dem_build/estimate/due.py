"""What is due in a plan, and what is known of it before it runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dem_build.action import key_of
from dem_build.checkpoint.filenames import CONFIG, INDEX
from dem_build.data.budget import Length, Size, mixture_tokens, token_shares
from dem_build.digest import Output, of_json
from dem_build.errors import CheckpointError, DemError
from dem_build.estimate.memory import (
    BYTES,
    MASTER,
    MATCHING,
    PASS,
    PASSES,
    PROCESS,
    Rows,
    Shape,
    held_memory,
    matching_memory,
    rank_memory,
    seen_tokens,
    solving_memory,
    training_memory,
)
from dem_build.hardware import gpus
from dem_build.json_text import parse_json, quantity
from dem_build.lock import hub
from dem_build.plan import preimage_of
from dem_build.store.records import MOST_COUNTED
from dem_build.workload import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dem_build.action import Action, Edge, SourceFile
    from dem_build.digest import JSON, Digest
    from dem_build.machine import Machine
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record, Store

JUDGED = ("data/rows", "data/validation", "data/test")
"""Tags of the rows that a search judges by; of a train split it reads the prompts alone."""


@dataclass(frozen=True)
class DueAction:
    """An action that is due, with what the records of its plan say of what it takes: a `workload.Due`."""

    action: Action
    plan: Plan

    @property
    def vectors(self) -> int:
        """How many vectors it takes."""
        return len({taken.at for taken in self.action.takes if taken.of == "delta"})

    def trained_tokens(self) -> int | None:
        """Tokens that a training reads; None before its data are prepared."""
        training = training_of(self.plan.verdicts[self.action.name], self.plan)
        return seen_tokens(training.rows, training.params) if training.rows else None

    def sampled_tokens(self, tag: str, rows: int) -> int | None:
        """Tokens of the first `rows` rows of each sample that it takes under a tag; None before data are prepared."""
        records = (self.plan.verdicts[t.at.action].record for t in self.action.takes if t.of == tag)
        found = [sample_lengths(record) for record in records]
        known = [sum(lengths[:rows]) for lengths in found if lengths is not None]
        return sum(known) if len(known) == len(found) else None

    def splits(self, tags: tuple[str, ...], what: str) -> list[int | None]:
        """What the records of data say of each split that it takes under some tags."""
        edges = [taken.at for taken in self.action.takes if taken.of in tags]
        records = [(self.plan.verdicts[edge.action].record, edge.output) for edge in edges]
        return [None if record is None else record.count("splits", split, what) for record, split in records]


@dataclass(frozen=True)
class Training:
    """A training that is due, with what is known of it.

    Attributes:
        params: Of the kind `finetune`.
        length: Most tokens of a sequence.
        rows: Its data; None before they are prepared.
    """

    name: str
    params: Mapping[str, JSON]
    length: int
    rows: Rows | None

    def memory(
        self, shape: Shape, params: Mapping[str, JSON], machine: Machine, length: int, *, gpu: bool
    ) -> int:
        """The bytes that it needs with these parameters and this length, which may be others than its own.

        Of several ranks it is what each needs of its GPU, or all together of this machine.
        """
        if (ranks := machine.ranks(gpu=gpu)) > 1:
            each = rank_memory(shape, params, machine, length, self.rows, ranks=ranks)
            # Each loads the whole base before it keeps its share: on a GPU that is in the machine's memory.
            return each if gpu else ranks * (PROCESS + max(each, MASTER * shape.parameters))
        if gpu:
            return training_memory(shape, params, machine, length, self.rows)
        return held_memory(shape, params, machine, length, self.rows) + PROCESS


@dataclass(frozen=True)
class DueMatching:
    """A matching of layers that is due, with what is known of it.

    Attributes:
        rows: Of each dataset, as the recipe says.
        lengths: Of each dataset the tokens of its sample's rows; None before they are prepared.
        most: Most tokens of a row, of datasets that are not prepared.
        solved: Whether it takes Gram matrices, in place of rows.
    """

    name: str
    rows: int
    lengths: tuple[Sequence[int] | None, ...]
    most: int
    solved: bool = False

    def memory(self, shape: Shape, rows: int, *, gpu: bool) -> int:
        """The bytes that it needs with so many rows of each dataset, which may be others than its own."""
        if self.solved:
            return solving_memory(shape) + (0 if gpu else PROCESS)
        tokens = sum(rows * self.most if found is None else sum(found[:rows]) for found in self.lengths)
        needs = matching_memory(shape, tokens)
        if gpu:
            return needs
        taken = sum(rows if found is None else min(rows, len(found)) for found in self.lengths)
        return needs + PASSES * taken * PASS + MATCHING + PROCESS


def due(plan: Plan, kind: str | None = None) -> list[Verdict]:
    """The verdicts on what is due, or may be; of several actions that are the same work, the first.

    Of one kind alone, if it is given.
    """
    found: dict[Digest, Verdict] = {}
    known: dict[str, Mapping[str, Output]] = {}
    for verdict in plan.due:
        if kind in (None, verdict.action.kind.name):
            found.setdefault(_key(verdict, plan, known), verdict)
    return list(found.values())


def same_work(plan: Plan, kind: str | None = None) -> dict[str, str]:
    """Each action that is due → the first one that is the same work, which may be itself; of one kind, if given."""
    first: dict[Digest, str] = {}
    known: dict[str, Mapping[str, Output]] = {}
    return {
        v.action.name: first.setdefault(_key(v, plan, known), v.action.name)
        for v in plan.due
        if kind in (None, v.action.kind.name)
    }


def trainings(plan: Plan) -> list[Training]:
    """The trainings that are due, or may be."""
    return [training_of(verdict, plan) for verdict in due(plan, "finetune")]


def matchings(plan: Plan) -> list[DueMatching]:
    """The matchings that are due, or may be."""
    return [matching_of(verdict.action, plan) for verdict in due(plan) if verdict.action.kind.streams]


def matching_of(action: Action, plan: Plan) -> DueMatching:
    """What is known of a matching."""
    data = [plan.verdicts[t.at.action] for t in action.takes if t.at.output == "sample"]
    most = max((made.action.params["max_length"] for made in data), default=0)
    lengths = tuple(sample_lengths(made.record) for made in data)
    solved = any(taken.of == "gram" for taken in action.takes)
    return DueMatching(action.name, action.params.get("rows", 0), lengths, most, solved)


def _key(verdict: Verdict, plan: Plan, known: dict[str, Mapping[str, Output]]) -> Digest:
    """An action's key, or what is the same for the same work while an input of it is not known.

    Args:
        verdict: The action's.
        plan: Where its inputs are made.
        known: Action → its outputs, or where these are not known yet what stands for them; grows.
    """
    if verdict.key is not None:
        return verdict.key
    for name in verdict.action.upstream:
        if name not in known:
            known[name] = _outputs(plan.verdicts[name], plan, known)
    return key_of(preimage_of(verdict.action, known))


def _outputs(verdict: Verdict, plan: Plan, known: dict[str, Mapping[str, Output]]) -> Mapping[str, Output]:
    if verdict.record is not None:
        return verdict.record.outputs
    key = _key(verdict, plan, known)
    return {name: Output(of_json([key, name]), 0) for name in verdict.action.kind.outputs}


def training_of(verdict: Verdict, plan: Plan) -> Training:
    """What is known of a training."""
    data = next(plan.verdicts[t.at.action] for t in verdict.action.takes if t.of == "data/train")
    mixture = data.action.kind.name == "mix"
    rows = rows_of(data.record) if data.record is not None else None
    if mixture and data.record is None:
        rows = mixed_rows(data, plan)
    sources = [plan.verdicts[name] for name in data.action.upstream] if mixture else [data]
    length = max(source.action.params["max_length"] for source in sources)
    if rows is not None and rows.longest and not verdict.action.params.get("packing"):
        length = min(length, rows.longest)
    return Training(verdict.action.name, verdict.action.params, length, rows)


def search_length(action: Action, plan: Plan) -> int | None:
    """The most tokens of a row that derivatives or curves are of; None for what has neither, or no rows."""
    return None if action.kind.slopes is None else judged_length(action, plan, (*JUDGED, SAMPLE))


def judged_length(action: Action, plan: Plan, tags: Sequence[str] = JUDGED) -> int | None:
    """The most tokens of a row that an action takes under some tags; None where it has none.

    Of data that are prepared it is the longest row's, and before that as many as a row may have.
    """
    judged = [taken.at for taken in action.takes if taken.of in tags]
    return max((_longest(edge, plan.verdicts[edge.action]) for edge in judged), default=None)


def judged_repeat(action: Action, plan: Plan) -> bool:
    """Whether some of the rows that an action judges by have one prompt, as far as records tell."""
    judged = [
        (plan.verdicts[taken.at.action].record, taken.at.output)
        for taken in action.takes
        if taken.of in JUDGED
    ]
    return any(record.outputs[split].repeats for record, split in judged if record is not None)


def _longest(split: Edge, data: Verdict) -> int:
    if split.output == "sample":
        recorded = max(sample_lengths(data.record) or (), default=None)
    else:
        recorded = data.record.count("splits", split.output, "longest") if data.record is not None else None
    most: int = data.action.params["max_length"]
    return most if recorded is None else min(recorded, most)


def on_gpu(machine: Machine) -> bool:
    """Whether what runs a model by a machine file has a GPU: a job that is given one, else this host."""
    return bool(gpus()) if machine.engine == "local" else machine.submit.gpus > 0


def shape_of(base: Verdict, store: Store) -> Shape | None:
    """The base's shape: of its record, else of the config that it is imported from."""
    config = config_of(base, store)
    return None if config is None else Shape.of(config, parameters_of(base))


def parameters_of(base: Verdict | None) -> int | None:
    """How many parameters the base has: of its record, else of its files; None if unknown.

    The headers of all files say it, or where these are not downloaded yet the index of shards.
    """
    if base is None:
        return None
    if base.record is not None:
        return base.record.count("parameters")
    from dem_build.checkpoint.reader import open_checkpoint  # noqa: PLC0415  numpy is not on a plan's path

    wanted = [s for s in base.action.sources if s.tag.endswith(".safetensors")]
    paths = [hub.here(s) for s in wanted]
    files = [path for path in paths if path is not None]
    if len(files) < len(wanted):
        return _indexed(base.action.sources)
    try:
        return sum(t.size for t in open_checkpoint(files).tensors.values()) or None
    except CheckpointError:
        return None  # the import says what is wrong with them


def _indexed(sources: Iterable[SourceFile]) -> int | None:
    """The parameters that the index of a hub's shards tells of: it and the config were read for the lock."""
    cached = {s.tag: hub.cached(s.hub) for s in sources if s.hub is not None and s.tag in (CONFIG, INDEX)}
    try:
        found = [cached[tag] for tag in (CONFIG, INDEX)]
        config, index = (parse_json(path.read_text(encoding="utf-8")) for path in found if path is not None)
        dtype = config.get("dtype") or config.get("torch_dtype")
        return int(
            index["metadata"].get("total_parameters") or index["metadata"]["total_size"] / BYTES[dtype]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def config_of(base: Verdict, store: Store) -> Mapping[str, JSON] | None:
    """The base's config, as it is recorded, else as it is imported; None where it cannot be read."""
    try:
        if base.record is not None:
            return _table(parse_json(store.objects.read_bytes(base.record.outputs["config"])))
        sources = [source for source in base.action.sources if source.tag == "config.json"]
        paths = [hub.here(s) for s in sources]
        return _table(parse_json(paths[0].read_text(encoding="utf-8"))) if paths and paths[0] else None
    except (OSError, ValueError, DemError):
        return None  # a build tells what is wrong with it; a plan goes on


def _table(document: JSON) -> Mapping[str, JSON] | None:
    return document if isinstance(document, dict) else None


# Mixtures.


@dataclass(frozen=True)
class Budget:
    """How long a mixture is trained.

    Attributes:
        equal: Whether it is as long as the trainings of the datasets' vectors together.
        datasets: Those that count.
        tokens: How many; None before the data are prepared, and where what is recorded does not say.
    """

    baseline: str
    equal: bool
    datasets: tuple[str, ...]
    tokens: int | None

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return asdict(self)


def budgets(plan: Plan) -> list[Budget]:
    """The budget of each mixture of a plan."""
    found = []
    for verdict in plan.verdicts.values():
        action, record = verdict.action, verdict.record
        if action.kind.name != "mix":
            continue
        planned = mixed_rows(verdict, plan) if record is None else None
        tokens = record.count("planned_tokens") if record is not None else planned.tokens if planned else None
        found.append(
            Budget(action.name.removeprefix("data:"), not action.params, tuple(action.groups), tokens)
        )
    return found


def mixed_rows(verdict: Verdict, plan: Plan) -> Rows | None:
    """What a mixture that is not made yet will hold; None before its data are prepared."""
    action = verdict.action
    records = [plan.verdicts[t.at.action].record for t in action.takes if t.of == "data/train"]
    parts = [rows for record in records if record is not None and (rows := rows_of(record))]
    if len(parts) < len(action.groups):
        return None
    sizes = [Size(rows.rows, rows.tokens) for rows in parts]
    groups = list(action.groups.values())
    shares = token_shares(sizes, [group.get("share") for group in groups])
    if action.params:
        tokens = mixture_tokens(sizes, shares, Length(**action.params))
    else:
        # Nothing is said of the mixture's own length: it is as long as the trainings of its datasets together.
        lengths = [Length(group["epochs"], group["sequences"], group["pack"]) for group in groups]
        tokens = math.fsum(length.tokens(size) for length, size in zip(lengths, sizes, strict=True))
    passes = [share * tokens / max(rows.tokens, 1) for share, rows in zip(shares, parts, strict=True)]
    return Rows(
        round(sum(n * part.rows for n, part in zip(passes, parts, strict=True))),
        round(tokens),
        round(sum(n * part.trained_tokens for n, part in zip(passes, parts, strict=True))),
        max(part.longest for part in parts if part.longest) if all(part.longest for part in parts) else None,
    )


def sample_lengths(record: Record | None) -> list[int] | None:
    """Tokens of each row of a dataset's sample; None where its record does not say."""
    lengths = record.noted("sample", "lengths") if record is not None else None
    found = [quantity(n) for n in lengths] if isinstance(lengths, list) else [None]
    known = [int(n) for n in found if n is not None and 0 <= n <= MOST_COUNTED]
    return known if len(known) == len(found) else None


def rows_of(record: Record) -> Rows | None:
    """What a dataset's or mixture's record says of its train split; None where it names no row."""
    names = ("rows", "tokens", "trained_tokens", "longest")
    rows, tokens, trained, longest = (record.count("splits", "train", n) for n in names)
    return Rows(rows, tokens, trained, longest) if rows and tokens and trained is not None else None
