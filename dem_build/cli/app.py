"""The commands and their options; what each does is in a module of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dem_build import __version__
from dem_build.cli.session import Call
from dem_build.errors import DemError, InterruptedBuildError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["app", "run"]

app = typer.Typer(
    name="dem",
    help="A build system for models: fine-tune a vector per dataset, compose them, rebuild only what changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache_app = typer.Typer(help="The store: what it holds, and whether it is sound.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Recipe = Annotated[str, typer.Argument(help="The recipe's file.", show_default=False)]
ActionName = Annotated[
    str, typer.Argument(metavar="ACTION", help="An action, as `dem plan` names it.", show_default=False)
]
Cache = Annotated[
    str | None, typer.Option("--cache", metavar="DIR", help="Folder of the store.", show_default=False)
]
MachineFile = Annotated[
    Path | None, typer.Option("--machine", metavar="FILE", help="The machine file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable.", show_default=False
    ),
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Set aside what is damaged, so that the next build makes it again.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]
Rebuild = Annotated[
    list[str] | None,
    typer.Option(
        "--rebuild", metavar="ACTION", help="Run an action that is recorded; repeatable.", show_default=False
    ),
]


@app.command("build")
def build_command(
    context: typer.Context,
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE... [-- ACTION...]", show_default=False)],
    *,
    locked: Annotated[
        bool, typer.Option("--locked", help="Fail (4) where the lock is not what is there.")
    ] = False,
    no_train: Annotated[bool, typer.Option("--no-train", help="Fail where a vector is missing.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub for anything.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="After a failure, do what can be done.")
    ] = False,
    trust_tasks: Annotated[
        bool, typer.Option("--trust-tasks", help="Run local task files, which are code.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Actions at once.", show_default=False)
    ] = None,
    rebuild: Rebuild = None,
    overrides: Overrides = None,
    cache: Cache = None,
    machine: MachineFile = None,
    as_json: AsJson = False,
) -> int:
    """Plan, run what is due, publish out/NAME/ and show the results."""
    from dem_build.cli import build  # noqa: PLC0415  one command's modules are not another's start-up

    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    call = Call(
        cache, machine, tuple(overrides or ()), _targets(context), tuple(rebuild or ()), locked=locked
    )
    flags = build.Flags(
        locked=locked,
        no_train=no_train,
        keep_going=keep_going,
        trust_tasks=trust_tasks,
        jobs=jobs,
        as_json=as_json,
    )
    return build.build_all(recipes, call, flags)


@app.command("plan")
def plan_command(
    context: typer.Context,
    recipe: Recipe,
    *,
    check: Annotated[bool, typer.Option("--check", help="Exit with 4 when something is due.")] = False,
    rebuild: Rebuild = None,
    overrides: Overrides = None,
    cache: Cache = None,
    machine: MachineFile = None,
    as_json: AsJson = False,
) -> int:
    """Show what would run, and why."""
    from dem_build.cli import inspect  # noqa: PLC0415

    call = Call(cache, machine, tuple(overrides or ()), _targets(context), tuple(rebuild or ()))
    return inspect.plan(recipe, call, check=check, as_json=as_json)


@app.command("why")
def why_command(
    recipe: Recipe,
    action: ActionName,
    overrides: Overrides = None,
    cache: Cache = None,
    machine: MachineFile = None,
) -> int:
    """Show which input or parameter of an action differs from its last build."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.why(recipe, action, Call(cache, machine, tuple(overrides or ())))


@app.command("check")
def check_command(recipe: Recipe, overrides: Overrides = None, as_json: AsJson = False) -> int:
    """Find all mistakes of a recipe, without reading data or running anything."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.check(recipe, tuple(overrides or ()), as_json=as_json)


@app.command("lock")
def lock_command(
    recipe: Recipe,
    *,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Move hub revisions to what they name now.")
    ] = False,
    cache: Cache = None,
    machine: MachineFile = None,
) -> int:
    """Write the recipe's lock: every outside name with its digest."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.write_lock(recipe, Call(cache, machine, upgrade=upgrade))


@app.command("data")
def data_command(
    recipe: Recipe,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A dataset, probe or mixture of the recipe.", show_default=False),
    ],
    *,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Examples to show.")] = 3,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "train",
    cache: Cache = None,
    machine: MachineFile = None,
) -> int:
    """Show decoded examples of a dataset, what counts for the loss, and its counts."""
    from dem_build.cli import examples  # noqa: PLC0415

    return examples.show(recipe, name, Call(cache, machine, targets=(f"data:{name}",)), rows, split)


@app.command("show")
def show_command(
    recipe: Recipe,
    action: Annotated[str, typer.Argument(metavar="[ACTION]", help="Default: the composed model.")] = "model",
    cache: Cache = None,
    machine: MachineFile = None,
    *,
    as_json: AsJson = False,
) -> int:
    """Show what made a model or the result of an action: inputs, parameters, machine, digests."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.show(recipe, action, Call(cache, machine), as_json=as_json)


@app.command("logs")
def logs_command(recipe: Recipe, action: ActionName, cache: Cache = None, machine: MachineFile = None) -> int:
    """Print the log of an action: of its result, or of its last run where that failed."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.logs(recipe, action, Call(cache, machine))


@app.command("report")
def report_command(
    recipe: Recipe, overrides: Overrides = None, cache: Cache = None, machine: MachineFile = None
) -> int:
    """Draw out/NAME/report.html from what is recorded, and run nothing."""
    from dem_build.cli import inspect  # noqa: PLC0415

    return inspect.report(recipe, Call(cache, machine, tuple(overrides or ())))


@app.command("ls")
def ls_command(cache: Cache = None, machine: MachineFile = None, *, as_json: AsJson = False) -> int:
    """List what the store holds."""
    from dem_build.cli import stores  # noqa: PLC0415

    return stores.ls(Call(cache, machine), as_json=as_json)


@cache_app.command("stats")
def stats_command(cache: Cache = None, machine: MachineFile = None, *, as_json: AsJson = False) -> int:
    """Show how much the store holds, by kind and by recipe."""
    from dem_build.cli import stores  # noqa: PLC0415

    return stores.stats(Call(cache, machine), as_json=as_json)


@cache_app.command("verify")
def verify_command(
    cache: Cache = None, machine: MachineFile = None, *, repair: Repair = False, as_json: AsJson = False
) -> int:
    """Read everything in the store; exit with 1 where something is damaged."""
    from dem_build.cli import stores  # noqa: PLC0415

    return stores.verify(Call(cache, machine), repair=repair, as_json=as_json)


@cache_app.command("gc")
def gc_command(
    *,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size", metavar="SIZE", help="Stop when the store is as small: 50G.", show_default=False
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", metavar="SPAN", help="Keep what was used within this: 30d.", show_default=False
        ),
    ] = None,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Take vectors and checkpoints too: GPU-hours.")
    ] = False,
    grace: Annotated[
        str | None,
        typer.Option(
            "--grace", metavar="SPAN", help="Keep what is younger; 1d if not given.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    cache: Cache = None,
    machine: MachineFile = None,
    as_json: AsJson = False,
) -> int:
    """Delete what no recipe and no running build needs."""
    from dem_build.cli import garbage  # noqa: PLC0415

    limits = garbage.Limits(max_size, older_than, grace, vectors, dry_run)
    return garbage.collect(Call(cache, machine), limits, as_json=as_json)


@app.callback(invoke_without_command=True)
def version_option(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False
) -> None:
    """Say which dem this is."""
    if version:
        sys.stdout.write(f"dem {__version__}\n")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status; a user's mistake is a line on stderr, never a traceback."""
    command, targets = _split(list(arguments))
    try:
        status = typer.main.get_command(_called(command)).main(
            args=command, prog_name="dem", obj=targets, standalone_mode=False
        )
    except DemError as error:
        return _report(error, _recipe(command), as_json="--json" in command)
    except KeyboardInterrupt:
        return _report(InterruptedBuildError("stopped"), _recipe(command), as_json="--json" in command)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone; nothing more to say to it
        return 1
    except Exception as error:  # noqa: BLE001  click's own errors share no public base class
        return _click_status(error, command)
    return int(status or 0)


def _called(command: Sequence[str]) -> typer.Typer:
    """Return the app with the one command that is called: to build the others' options takes longer than a plan."""
    called = [c for c in app.registered_commands if command and c.name == command[0]]
    if not called:
        return app
    alone = typer.Typer(name=app.info.name, add_completion=False, context_settings=app.info.context_settings)
    alone.registered_callback, alone.registered_commands = app.registered_callback, called
    return alone


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take what follows `--` apart: these are actions, not recipes."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _targets(context: typer.Context) -> tuple[str, ...]:
    return tuple(context.obj or ())


def _report(error: DemError, recipe: str, *, as_json: bool) -> int:
    from dem_build.cli.view import make_console, render_error  # noqa: PLC0415

    if as_json:
        _write_failure(error, recipe)
    render_error(error, make_console(stderr=True))
    return error.exit_status


def _write_failure(error: DemError, recipe: str) -> None:
    from dem_build.report.documents import failure_document  # noqa: PLC0415

    sys.stdout.write(json.dumps(failure_document(recipe, error)) + "\n")


def _recipe(command: Sequence[str]) -> str:
    """Return what is most likely the recipe in a call that failed before its options were understood."""
    words = [a for a in command[1:] if not a.startswith("-")]
    return next((w for w in words if w.endswith(".toml")), words[0] if words else "")


def _click_status(error: Exception, command: Sequence[str]) -> int:
    """Let click show the mistakes of a call in its own words; what is not click's is a bug and stays a traceback."""
    show: Callable[[], None] | None = getattr(error, "show", None)
    if show is None:
        if type(error).__name__ == "Abort":
            return 130
        raise error
    show()
    if "--json" in command:
        message: Callable[[], str] | None = getattr(error, "format_message", None)
        _write_failure(UsageError(message() if message else str(error)), _recipe(command))
    return UsageError.exit_status
