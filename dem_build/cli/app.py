"""Which commands there are, and how a call ends: its exit status, and a user's mistakes in words."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from dem_build import __version__
from dem_build.cli.commands.group import Commands
from dem_build.errors import DemError, InterruptedBuildError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "run"]

app = Commands(
    {"build": "build"}
    | dict.fromkeys(("plan", "why", "check", "lock", "data", "show", "logs", "report"), "recipes")
    | dict.fromkeys(("ls", "cache"), "stores"),
    name="dem",
    help="A build system for models: fine-tune a vector per dataset, compose them, rebuild only what changed.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__, message="dem %(version)s", help="Print the version.")(app)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status; a user's mistake is a line on stderr, never a traceback."""
    command = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        status = app.main(args=list(arguments), prog_name="dem", standalone_mode=False)
    except DemError as error:
        return _report(error, command)
    except (KeyboardInterrupt, click.Abort):
        return _report(InterruptedBuildError("stopped"), command)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone; nothing more to say to it
        return 1
    except click.ClickException as error:
        return _report_call(error, command)
    return int(status or 0)


def _report(error: DemError, command: Sequence[str]) -> int:
    from dem_build.cli.view import make_console, render_error  # noqa: PLC0415  a call that succeeds needs it late

    if "--json" in command:
        _write_failure(error, command)
    render_error(error, make_console(stderr=True))
    return error.exit_status


def _report_call(error: click.ClickException, command: Sequence[str]) -> int:
    """Let click show the mistakes of a call in its own words."""
    error.show()
    if "--json" in command:
        _write_failure(UsageError(error.format_message()), command)
    return UsageError.exit_status


def _write_failure(error: DemError, command: Sequence[str]) -> None:
    from dem_build.report.documents import failure_document  # noqa: PLC0415  as above

    documents = [failure_document(recipe, error) for recipe in _recipes(command) or [""]]
    sys.stdout.write(json.dumps(documents if len(documents) > 1 else documents[0]) + "\n")


def _recipes(command: Sequence[str]) -> list[str]:
    """Return what are most likely the recipes in a call that failed before its options were understood."""
    name, words, takes = command[0], list(command[1:]), {"recipe"}
    if name in app.places:
        parameters = app.get_command(click.Context(app), name).params
        options = click.Command(name, params=[p for p in parameters if isinstance(p, click.Option)])
        lenient = click.Context(options, ignore_unknown_options=True, resilient_parsing=True)
        words = options.make_parser(lenient).parse_args(words)[1]  # what belongs to no option
        takes = {str(parameter.name) for parameter in parameters}
    words = [word for word in words if not word.startswith("-")]
    found = [word for word in words if word.endswith(".toml")] or words
    if "recipes" in takes:
        return found
    return found[:1] if "recipe" in takes else []
