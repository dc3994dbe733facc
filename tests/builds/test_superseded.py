"""Two builds of one recipe at once, which was changed between them: the one that began last has the last word.

One that was killed, failed or was stopped has none.
"""

from __future__ import annotations

import errno
import json
import shutil
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from project import dataset, fresh
from project import recipe as make_recipe
from scaled import record_made_up, scaled_project

from dem_build.cli.work import _Team
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.outcome import Outcome, recorded
from dem_build.errors import DemError
from dem_build.session import session
from dem_build.session.build import building
from dem_build.session.ending import conclude
from dem_build.session.session import Call, Session, last_root, open_session
from dem_build.view.follow import make_listener
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two datasets; all is recorded of its recipe, and of the same without the second one."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEM_HINTS", str(home / "hints"))
        path = scaled_project(home, 2, baselines=0)
        record_made_up(path)
        text = path.read_text()
        path.write_text(without(text))
        record_made_up(path)
        path.write_text(text)
    return home


@pytest.fixture
def recipe(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe of a copy of the project."""
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    return shutil.copytree(made, tmp_path / "project") / "recipe.toml"


def without(text: str) -> str:
    return text[: text.index("[datasets.d1]")]


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """What ends with the processes that tests are in the place of."""
    with ExitStack() as held:
        yield held


def begun(recipe: Path, held: ExitStack | None = None) -> tuple[Session, Path, Path]:
    """A build that has its model still to make; and the model's record, where it is and where it belongs."""
    session = open_session(str(recipe), Call())
    key = session.plan.verdicts["model"].key
    assert key is not None
    record = recipe.parent / "cache" / "actions" / key[:2] / f"{key}.json"
    aside = record.rename(recipe.parent / "aside")
    session = open_session(str(recipe), Call(), held)
    assert not session.plan.up_to_date
    session.save_root()
    return session, aside, record


def ended(session: Session) -> Outcome:
    outcome = recorded(session.planned_again().plan)
    session.save_root(outcome)
    return outcome


def omega(recipe: Path) -> dict[str, float]:
    return json.loads((recipe.parent / "out" / "recipe" / "results.json").read_text())["omega"]


def test_what_was_built_of_an_earlier_recipe_takes_the_place_of_nothing(recipe: Path) -> None:
    text = recipe.read_text()
    early, aside, record = begun(recipe)
    recipe.write_text(without(text))
    late = open_session(str(recipe), Call())
    late.save_root()
    assert conclude(late, ended(late)).model is not None
    aside.rename(record)
    with pytest.warns(UserWarning, match="the recipe has changed since this build began"):
        ending = conclude(early, ended(early))
    assert ending.model is None
    assert omega(recipe) == {"d0": 0.5}
    root = last_root(late.store, recipe)
    assert {v.key for v in late.plan.verdicts.values()} == {*root["actions"].values()}  # kept from collection
    assert {v.key for v in early.plan.verdicts.values() if v.key} <= {
        *root["actions"].values(),
        *root["dropped"],
    }


@pytest.mark.parametrize("edit", ["", "# a comment\n"])
def test_of_two_builds_of_the_same_the_last_to_end_publishes(recipe: Path, edit: str) -> None:
    early, aside, record = begun(recipe)
    recipe.write_text(recipe.read_text() + edit)
    aside.rename(record)
    late = open_session(str(recipe), Call())
    late.save_root()
    assert last_root(late.store, recipe)["begun"][-1] == late.mark
    assert conclude(early, ended(early)).model is not None
    assert omega(recipe) == {"d0": 0.5, "d1": 0.5}


@pytest.mark.parametrize("targets", [None, ("data:d0",)])
def test_a_recipe_that_is_edited_while_it_is_built_is_published(
    recipe: Path, targets: tuple[str, ...] | None
) -> None:
    early, aside, record = begun(recipe)
    recipe.write_text(without(recipe.read_text()))  # for the next build, which has not begun
    if targets is not None:  # a look at what it will take is none
        open_session(str(recipe), Call(targets=targets)).save_root()
    aside.rename(record)
    assert conclude(early, ended(early)).model is not None
    assert omega(recipe) == {"d0": 0.5, "d1": 0.5}


def test_a_worker_publishes_nothing_and_supersedes_nobody(recipe: Path) -> None:
    early, aside, record = begun(recipe)
    recipe.write_text(without(recipe.read_text()))
    with ExitStack() as within:
        _Team.of([str(recipe)], Call(), within)
    aside.rename(record)
    assert conclude(early, ended(early)).model is not None
    assert omega(recipe) == {"d0": 0.5, "d1": 0.5}


def test_a_build_that_ends_without_a_model_supersedes_nobody(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, aside, record = begun(recipe)
    recipe.write_text(without(recipe.read_text()))

    def refused(*_: object) -> None:
        raise DemError("not enough memory")

    monkeypatch.setattr("dem_build.session.build.run_plan", refused)
    follower = make_listener(make_console(stderr=True))
    with pytest.raises(DemError, match="not enough memory"), Interrupt() as interrupt:  # noqa: SIM117
        with building(str(recipe), Call(), follower, interrupt):
            pass
    aside.rename(record)
    assert conclude(early, ended(early)).model is not None
    assert omega(recipe) == {"d0": 0.5, "d1": 0.5}


@pytest.mark.filterwarnings("ignore:.* is left to that")
@pytest.mark.parametrize("lives", [True, False])
def test_a_later_build_counts_as_long_as_it_runs(recipe: Path, held: ExitStack, *, lives: bool) -> None:
    early, aside, record = begun(recipe, held)
    recipe.write_text(without(recipe.read_text()))
    with ExitStack() as within:
        open_session(str(recipe), Call(), held if lives else within).save_root()
    aside.rename(record)
    assert (conclude(early, ended(early)).model is None) is lives


def test_a_build_that_was_killed_is_no_answer_to_one_before_that_published(
    recipe: Path, held: ExitStack
) -> None:
    text = recipe.read_text()
    early, aside, record = begun(recipe, held)
    recipe.write_text(without(text))
    late = open_session(str(recipe), Call(), held)
    late.save_root()
    assert conclude(late, ended(late)).model is not None
    with ExitStack() as within:
        open_session(str(recipe), Call(overrides=("datasets.d0.omega=0.25",)), within).save_root()
    aside.rename(record)
    with pytest.warns(UserWarning, match="the recipe has changed since this build began"):
        assert conclude(early, ended(early)).model is None
    assert omega(recipe) == {"d0": 0.5}


def test_who_published_last_is_the_last_whenever_it_began(recipe: Path, held: ExitStack) -> None:
    text = recipe.read_text()
    first = open_session(str(recipe), Call(overrides=("compose.dtype=bfloat16",)), held)  # never to be built
    first.save_root()
    early, aside, record = begun(recipe, held)
    recipe.write_text(without(text))
    late = open_session(str(recipe), Call(), held)
    late.save_root()
    recipe.write_text(text)
    aside.rename(record)
    assert conclude(early, ended(early)).model is not None  # it is what the recipe says
    root = last_root(early.store, recipe)
    assert root["begun"] == [first.mark, late.mark, early.mark]
    assert root["published"] == early.mark
    assert late.superseded


def test_a_later_build_that_is_killed_leaves_the_model_to_the_one_before(
    tmp_path: Path, tiny_base: Path
) -> None:
    project = fresh(tmp_path, tiny_base)
    roots = project.home / "cache" / "roots"

    def of(*names: str, omega: float) -> str:
        return make_recipe(*(dataset(name, omega=omega) for name in names), '[compose]\ndtype = "float32"\n')

    def signed(process: Popen[str], others: int) -> None:
        """Wait until a build has written that it has begun."""
        deadline = time.monotonic() + 120
        while not any(
            text.count('"begun"') and len(json.loads(text)["root"]["begun"]) > others for text in texts()
        ):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def texts() -> list[str]:
        return [path.read_text() for path in roots.glob("*.json")] if roots.is_dir() else []

    project.write(of("add", omega=0.5))
    early = project.start("build", "tiny.toml")
    signed(early, 0)
    early.send_signal(signal.SIGSTOP)
    project.write(of("add", "copy", omega=0.25))
    late = project.start("build", "tiny.toml")
    signed(late, 1)
    late.kill()
    late.communicate(timeout=60)
    assert late.returncode == -signal.SIGKILL
    early.send_signal(signal.SIGCONT)
    _, said = early.communicate(timeout=240)
    assert early.returncode == 0, said
    assert "is left to that" not in said
    assert json.loads((project.home / "out" / "tiny" / "results.json").read_text())["omega"] == {"add": 0.5}


def test_the_model_alone_is_built_of_a_later_recipe_and_stays(recipe: Path) -> None:
    early, aside, record = begun(recipe)
    recipe.write_text(without(recipe.read_text()))
    late = open_session(str(recipe), Call(targets=("model",)))
    late.save_root()
    assert conclude(late, ended(late)).model is not None
    aside.rename(record)
    with pytest.warns(UserWarning, match="the recipe has changed since this build began"):
        assert conclude(early, ended(early)).model is None


def test_what_others_wrote_into_the_root_meanwhile_stays(recipe: Path, held: ExitStack) -> None:
    whole, aside, record = begun(recipe, held)
    part = open_session(str(recipe), Call(targets=("data:d0",)))
    key = "a" * 64
    open_session(str(recipe), Call()).save_predictions([key])
    part.save_root(recorded(part.plan))
    assert last_root(part.store, recipe)["begun"] == [whole.mark]
    aside.rename(record)
    ended(whole)
    root = last_root(whole.store, recipe)
    assert root["actions"]["score:aaaaaaaaaaaa"] == key
    assert {v.key for v in whole.plan.verdicts.values() if v.key} <= {*root["actions"].values()}


@pytest.mark.parametrize("saved", ["root", "predictions"])
def test_what_another_process_writes_between_reading_and_writing_a_root_stays(
    recipe: Path, saved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its keys are in no root, neither needed nor dropped, and a collection takes what they name."""
    mine, theirs = (open_session(str(recipe), Call()) for _ in range(2))
    one, other = "a" * 64, "b" * 64
    writes = threading.Thread(target=theirs.save_predictions, args=([other],))
    read = session.last_root

    def slow(*args: Any) -> Any:
        root = read(*args)
        if threading.current_thread() is not writes and not writes.ident:
            writes.start()
            writes.join(1.0)  # it waits for the lock, or has written before that
        return root

    monkeypatch.setattr(session, "last_root", slow)
    if saved == "root":
        mine.save_root()
    else:
        mine.save_predictions([one])
    writes.join(60.0)
    assert not writes.is_alive()
    kept = {key for root in mine.store.roots.all() for key in root.names}
    assert other in kept
    assert {v.key for v in mine.plan.verdicts.values() if v.key} <= kept or saved == "predictions"
    assert (one in kept) is (saved == "predictions")


def test_a_store_that_is_only_read_has_no_lock_and_is_served(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise PermissionError(errno.EROFS, "read-only file system")

    store = open_session(str(recipe), Call()).store
    monkeypatch.setattr("dem_build.store.files.exclusively", refused)
    with store.roots.changing():
        assert store.roots.read(str(recipe)) is None
