"""Vectors and models of a study: where their files are, and what transformers makes of them."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.action import MODEL
from dem_build.checkpoint.filenames import ADAPTER_CONFIG, GENERATION_CONFIG, TOKENIZER_FILES, WEIGHTS
from dem_build.engine.publish import export_model, is_published, link_model
from dem_build.errors import UsageError
from dem_build.report.comparison import COMPOSED
from dem_build.report.results import digest_of
from dem_build.session.recorded import origin_of, parts_of, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from dem_build.model.stored import PreTrainedModel, PreTrainedTokenizerBase, Tensors
    from dem_build.session.session import Session

LOADED = frozenset({*TOKENIZER_FILES, ADAPTER_CONFIG, GENERATION_CONFIG})
"""Files beside the weights that `from_pretrained` heeds."""


def _maker(session: Session, name: str, what: str, output: str, hint: str) -> str:
    """The action of a name, or of `WHAT:NAME`, which has to make that output.

    Raises:
        UsageError: There is none, or it makes something else.
    """
    graph = session.plan.graph
    action = graph.action(name if ":" in name or name in graph.actions else f"{what}:{name}")
    if output not in action.kind.outputs:
        raise UsageError(f"{action.name} makes no {what}", where=session.named, hint=hint)
    return action.name


class StoredVector:
    """A distribution vector ΔΘ: what a training changed.

    Attributes:
        action: The action that made it, such as `vector:math`.
        origin: The action that made what it is added to: `base` or `trunk`.
        path: Its file in the store, checked. Read it and never write to it: all recipes of the cache share it.
        digest: SHA-256 of the file.
    """

    def __init__(self, session: Session, name: str) -> None:
        action = _maker(session, name, "vector", "delta", "one is called vector:NAME")
        self._session = session
        self.action = action
        self.origin: str = origin_of(session.plan.graph.actions[action])
        output = recorded(session, action).outputs["delta"]
        session.store.objects.bring(output.blobs())
        self.path: Path = session.store.objects.open(output)
        self.digest: str = output.digest

    def load(self) -> Tensors:
        """Its tensors by the names that the base has for them, in float32 on the CPU, however it is stored.

        Raises:
            StoreError: It, or the weights that it is added to, is damaged or gone.
        """
        from dem_build.model.stored import vector_tensors  # noqa: PLC0415  torch

        weights = parts_of(self._session, self.origin)["weights"]
        with tempfile.TemporaryDirectory(prefix="dem-") as folder:
            origin = self._session.store.views.view(weights, Path(folder), "weights")
            return vector_tensors(self.path, origin, weights.digest, self.action)

    def __repr__(self) -> str:
        return f"StoredVector({self.action!r}, added to {self.origin}, {self.path})"


class StoredModel:
    """A model that a study made or took.

    Attributes:
        action: The action that made it: `model`, `base`, `trunk`, `model:NAME` …
        digest: What tells the model from others, as in `results.json`.
    """

    def __init__(self, session: Session, name: str) -> None:
        named = {COMPOSED: MODEL, "": MODEL}.get(name, name)
        action = _maker(session, named, "model", "weights", "`model` is the composed one")
        self._session = session
        self.action = action
        self._parts = parts_of(session, action)
        self.digest: str = digest_of(recorded(session, action))

    @property
    def path(self) -> Path:
        """The folder of the composed model that the last build published.

        Raises:
            UsageError: It is another model, or was not published, or what is there is not of these records.
        """
        to = self._session.destination()
        if self.action != MODEL or not is_published(to, self.digest):
            what = f"{self.action} is in no folder of its own"
            raise UsageError(what, where=self._session.named, hint=".save(folder) copies it to one")
        return to.model

    def load(self, **arguments: Any) -> PreTrainedModel:
        """The model, as `AutoModelForCausalLM.from_pretrained` loads it with these arguments."""
        from dem_build.model.stored import pretrained  # noqa: PLC0415  torch and transformers

        with self._folder() as folder:
            return pretrained(folder, arguments)

    def tokenizer(self, **arguments: Any) -> PreTrainedTokenizerBase:
        """Its tokenizer, as `AutoTokenizer.from_pretrained` loads it with these arguments."""
        from dem_build.model.stored import pretrained_tokenizer  # noqa: PLC0415  as above

        with self._folder() as folder:
            return pretrained_tokenizer(folder, arguments)

    def save(self, folder: str | PathLike[str]) -> Path:
        """Copy it to a folder, as `from_pretrained` takes it; files that hold the right bytes already stay.

        Raises:
            UsageError: The folder holds files of another model that would be loaded with this one's, or in their place.
            StoreError: It is damaged or gone, or the copy cannot be written.
        """
        target = Path(folder)
        own = {name for part in ("weights", "tokenizer") for name in self._parts[part].files or ()}
        own |= {GENERATION_CONFIG} if self._is_configured() else set()
        there = {path.name for path in target.iterdir()} if target.is_dir() else set()
        if strange := sorted(name for name in there - own if name in LOADED or WEIGHTS.fullmatch(name)):
            what = f"holds {strange[0]} of another model, which would be loaded with this one's files"
            raise UsageError(what, where=str(target), hint="name a new folder, or empty this one")
        export_model(self._parts, self._session.store, target)
        return target

    def _is_configured(self) -> bool:
        """Whether it has a file of how to generate, which an empty one is not."""
        return self._session.store.objects.read_bytes(self._parts["generation_config"]).strip() != b"{}"

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """A folder of links to its files, which transformers maps: they are needed no longer than it loads."""
        store = self._session.store
        with tempfile.TemporaryDirectory(prefix="dem-") as work:
            folder = Path(work)
            link_model(self._parts, store, folder)
            yield folder

    def __repr__(self) -> str:
        return f"StoredModel({self.action!r}, {self.digest[:12]})"
