"""`dem export`: a vector or a model leaves the store in a form that another library loads."""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.action import BASE
from dem_build.checkpoint.adapter import write_adapter
from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.factors import write_factors
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.engine.publish import export_model, link_model
from dem_build.errors import UsageError
from dem_build.report.inputs import base_name
from dem_build.report.text import clean
from dem_build.session.recorded import origin_of, parts_of, recorded
from dem_build.session.session import open_session
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.action import Action
    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import Output
    from dem_build.session.session import Call, Session

ADAPTER, CHECKPOINT, GGUF = "adapter", "checkpoint", "gguf"


def export(  # noqa: PLR0913  the command's options
    recipe: str,
    action: str,
    place: Path,
    call: Call,
    *,
    form: str | None,
    dtype: str | None,
    rank: int | None,
    omega: float | None,
) -> int:
    """Write what an action made in a form that another library loads.

    Args:
        recipe: The recipe.
        action: What makes a vector or a model.
        place: A new folder, or with `form = "gguf"` a new file.
        call: The options that several commands have.
        form: As of `Wished`, as are the others; without one, what is called `*.gguf` is GGUF, else a vector becomes an
            adapter, and a model a checkpoint.
        dtype: Likewise.
        rank: Likewise.
        omega: Likewise.

    Raises:
        UsageError: The action makes neither or has not been built, it has no such form, or something is in the way.
        StoreError: What it made is damaged or gone.
    """
    with ExitStack() as within:
        session = open_session(recipe, call).kept(within)
        found = session.plan.graph.action(action)
        usual = ADAPTER if "delta" in found.kind.outputs else CHECKPOINT
        form = form or (GGUF if place.suffix == ".gguf" else usual)
        leaving = _Leaving(session, found, place, Wished(form, dtype, rank, omega))
        leaving.check()
        forms = {ADAPTER: leaving.adapter, CHECKPOINT: leaving.checkpoint, GGUF: leaving.gguf}
        try:
            said = forms[form]()
        except OSError as error:
            hint = f"name a new {'file' if form == GGUF else 'folder'}"
            raise UsageError(f"{place}: {error.strerror}", where=session.named, hint=hint) from error
    for line in (f"{place}: {said[0]}", *said[1:]):
        make_console().print(clean(line), soft_wrap=True)
    return 0


def export_adapter(session: Session, action: Action, folder: Path) -> str:
    """Write a vector of low rank as an adapter of peft, with nothing lost; say what it is of.

    Raises:
        FileExistsError: The folder holds one.
    """
    output, origin = recorded(session, action.name).outputs["delta"], origin_of(action)
    session.store.objects.bring(output.blobs())
    base = base_name(session.recipe, session.plan.graph) if origin == BASE else None
    write_adapter(session.store.objects.open(output), folder, base, action.name)
    return f"an adapter of {base}" if base is not None else f"an adapter of the model that {origin} makes"


@dataclass(frozen=True)
class Wished:
    """What the user asked for.

    Attributes:
        form: `adapter` (of a vector, for peft), `checkpoint` or `gguf` (of a model, or of the base with a vector).
        dtype: What a GGUF file stores matrices in; None for float16.
        rank: Of the adapter that is cut out of a vector.
        omega: ω of a vector that is added to its base; None for 1.
    """

    form: str
    dtype: str | None = None
    rank: int | None = None
    omega: float | None = None


@dataclass(frozen=True)
class _Leaving:
    """An action's output on its way out."""

    session: Session
    action: Action
    place: Path
    wished: Wished

    @property
    def _is_vector(self) -> bool:
        return "delta" in self.action.kind.outputs

    def check(self) -> None:
        """Refuse an action without such a form, and an option that the form does not read.

        Raises:
            UsageError: As `export`.
        """
        form, name = self.wished.form, self.action.name
        if not self._is_vector and "weights" not in self.action.kind.outputs:
            raise self._refused(f"{name} makes neither a vector nor a model", "`dem plan` lists the actions")
        if not self._is_vector and form == ADAPTER:
            raise self._refused(f"{name} makes no vector", "an adapter is made of one, such as vector:NAME")
        read = {
            "--type": (self.wished.dtype, form == GGUF),
            "--rank": (self.wished.rank, form == ADAPTER),
            "--omega": (self.wished.omega, self._is_vector and form != ADAPTER),
        }
        if self.wished.omega is not None and not math.isfinite(self.wished.omega):
            raise self._refused(f"--omega is {self.wished.omega:g}", "a finite number, such as 0.5")
        if idle := [option for option, (given, used) in read.items() if given is not None and not used]:
            raise self._refused(f"{idle[0]} says nothing of {name} as {form}", "leave it out")
        if form == ADAPTER and self.action.params.get("method") != "lora" and self.wished.rank is None:
            what = f"{name} is a vector of all weights, and an adapter keeps a part of it"
            hint = "--rank 64 says how much; --form checkpoint writes base and vector as a model"
            raise self._refused(what, hint)

    def _refused(self, what: str, hint: str) -> UsageError:
        return UsageError(what, where=self.session.named, hint=hint)

    def adapter(self) -> tuple[str, ...]:
        """Write an adapter of peft; say what it is of, and what it lacks."""
        rank = self.wished.rank
        if rank is None:
            with _in_place(self.place) as folder:
                return (export_adapter(self.session, self.action, folder),)
        from dem_build.export.low_rank import layers_of, truncated  # noqa: PLC0415  scipy, for this alone

        origin, objects = origin_of(self.action), self.session.store.objects
        with _in_place(self.place) as folder, tempfile.TemporaryDirectory(prefix="dem-export-") as work:
            base, delta, parts = self._summands(Path(work))
            places = layers_of(objects.open(parts["config"]), base.tensors, origin)
            # More columns than the largest matrix has would be zeros.
            rank = min(rank, max((min(base.tensors[key].shape) for key in places), default=rank))
            factors, loss = truncated(delta, places, rank)
            file = Path(work) / "factors.safetensors"
            write_factors(file, parts["weights"].digest, factors)
            name = base_name(self.session.recipe, self.session.plan.graph) if origin == BASE else None
            write_adapter(file, folder, name, self.action.name)
        whose = name or f"the model that {origin} makes"
        lacks = f"it lacks {loss.total:.1%} of the vector's length"
        beside = (
            f" ({loss.beside:.1%} where it has no place: embeddings, head, norms, biases)"
            if loss.beside
            else ""
        )
        return (f"an adapter of {whose}, of rank {rank}: {lacks}{beside}",)

    def checkpoint(self) -> tuple[str, ...]:
        """Write a model's folder, of a vector with the base that it belongs to; say what it is."""
        with _in_place(self.place) as folder:
            return (self._model(folder, self.session.recipe.compose.dtype),)

    def gguf(self) -> tuple[str, ...]:
        """Write a GGUF file; say what rounding moved, and what readers make of its tokenizer."""
        from dem_build.export.gguf_model import write_gguf  # noqa: PLC0415  numpy and gguf, for this alone

        place, kind = self.place.absolute(), self.wished.dtype or "f16"
        _refuse_taken(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        # A sum of base and vector lies there meanwhile, on the disk that has to hold the file as well.
        with tempfile.TemporaryDirectory(prefix=".dem-gguf-", dir=place.parent) as work:
            folder = Path(work) / "model"
            if self._is_vector:
                self._model(folder, "float32")  # rounded once, to what the file stores
            else:
                link_model(parts_of(self.session, self.action.name), self.session.store, folder)
            written = write_gguf(place, folder, self.session.recipe.name, kind)
        moved = (
            f"its matrices moved by {written.error:.2g} of their length"
            if written.error
            else "nothing is lost"
        )
        return (f"GGUF in {kind}, {moved}", *(f"note: {note}" for note in written.notes))

    def _model(self, folder: Path, dtype: str) -> str:
        """Copy a model's parts to a folder, or write the base with the vector there in a dtype; return what it is."""
        if not self._is_vector:
            export_model(parts_of(self.session, self.action.name), self.session.store, folder)
            return f"the model that {self.action.name} makes"
        from dem_build.export.plain import write_config, write_sum  # noqa: PLC0415  numpy, for this alone

        omega = 1.0 if self.wished.omega is None else self.wished.omega
        objects = self.session.store.objects
        with tempfile.TemporaryDirectory(prefix="dem-export-") as work:
            base, delta, parts = self._summands(Path(work))
            write_sum(folder, base, delta, omega, dtype)
            write_config(folder, objects.open(parts["config"]), dtype)
        export_model({n: parts[n] for n in ("tokenizer", "generation_config")}, self.session.store, folder)
        return f"{origin_of(self.action)} + {omega:g} {self.action.name}, in {dtype}"

    def _summands(self, work: Path) -> tuple[Checkpoint, Checkpoint, dict[str, Output]]:
        """What a vector is added to, the vector, and the parts of the former's model."""
        parts, store = parts_of(self.session, origin_of(self.action)), self.session.store
        vector = recorded(self.session, self.action.name).outputs["delta"]
        base = open_checkpoint(store.views.view(parts["weights"], work, "weights"))
        return (
            base,
            open_delta(store.objects.open(vector), base, parts["weights"].digest, self.action.name),
            parts,
        )


@contextmanager
def _in_place(target: Path) -> Iterator[Path]:
    """Give the path of a new folder, which gets its name when all of it is there.

    Raises:
        FileExistsError: There is something of that name.
    """
    _refuse_taken(target)
    partial = target.absolute().with_name(f".{target.name}.{os.getpid()}")
    try:
        yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_taken(target: Path) -> None:
    if target.exists():
        raise FileExistsError(errno.EEXIST, "there is something of that name", str(target))
