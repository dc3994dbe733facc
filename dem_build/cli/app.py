"""Which commands there are, with their options, and how a call ends: its status, and a user's mistakes in words.

A command is the function of its name in a module of `cli`. That is imported when it is called, so that help,
completion and a mistyped option wait for none of them.
"""

from __future__ import annotations

import os
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dem_build import __version__
from dem_build.errors import DemError, InterruptedBuildError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from click.shell_completion import CompletionItem

TYPED = "dem.typed"
"""Where a context keeps the words of its call: while a shell asks what can follow, click understands few of them."""


class Command(click.Command):
    """A command: a function that is given a `Call`, and by name whatever else the user said.

    Args:
        place: `module.function`, where the module is one of `cli`.
        text: What the help page says.
        params: Arguments and options in the order of the help page. Those that are called like a field of `Call` go
            there.
        on_actions: Whether what follows `--` names actions, the `targets` of the call, and not arguments.
    """

    def __init__(self, place: str, text: str, *params: click.Parameter, on_actions: bool = False) -> None:
        self.module, _, self.function = place.rpartition(".")
        self._on_actions = on_actions
        super().__init__(self.function, params=[*params], help=text, callback=self._run)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the actions apart, and read the rest as click does."""
        ctx.meta[TYPED] = tuple(args)
        at = args.index("--") if self._on_actions and "--" in args else len(args)
        left = super().parse_args(ctx, args[:at])
        if self._on_actions:
            ctx.params["targets"] = tuple(args[at + 1 :])
        return left

    def _run(self, **given: Any) -> int:
        # Only now: pydantic and the recipe's models take longer than all of a help page.
        function = getattr(import_module(f"{__package__}.{self.module}"), self.function)
        from dem_build.session.session import Call  # noqa: PLC0415
        from dem_build.view.text import Spoken  # noqa: PLC0415

        shared = {name: given.pop(name) for name in Call.__dataclass_fields__ if name in given}
        status: int = function(call=Call(**shared, voice=Spoken()), **given)
        return status


_MEANT = {
    "plan": "status watch progress dry-run",
    "build": "run train merge make repro eval evaluate resume",
    "check": "validate lint",
    "remove": "rm drop delete",
    "cache gc": "clean prune rm drop delete remove",
    "cache pull": "fetch",
    "cache stats": "status du",
    "cache remote show": "list ls status",
    "ls": "list history",
    "why": "explain",
    "logs": "log",
    "data": "preprocess",
    "diff": "compare",
    "publish": "upload",
    "export": "convert",
    "chat": "serve",
    "init": "new",
}
OTHER_NAMES = {command: frozenset(words.split()) for command, words in _MEANT.items()}
"""What make, git, DVC, mergekit and Axolotl call the same as a command, or what is nearest to it."""


class Commands(click.Group):
    """Commands, which the help page lists in the order in which they were given."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click gives it
        """The names in that order."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands with the whole first sentence of each; click would cut it to a line."""
        with formatter.section("Commands"):
            formatter.write_dl([(n, c.get_short_help_str(limit=200)) for n, c in self.commands.items()])


def _flag(name: str, text: str) -> click.Option:
    return click.Option([name], is_flag=True, help=text)


def _number(name: str, text: str, least: int = 1, default: int | None = None) -> click.Option:
    kind = click.IntRange(min=least)
    return click.Option(name.split(), type=kind, default=default, show_default=default is not None, help=text)


def _repeatable(name: str, metavar: str, text: str, completes: str | None = None) -> click.Option:
    said = f"{text}; repeatable."
    complete = _completes(completes) if completes else None
    return click.Option(name.split(), multiple=True, metavar=metavar, help=said, shell_complete=complete)


def _completes(what: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What a shell offers in a place: the function of that name in `cli/setup/completion.py`, loaded when it asks."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        module = import_module(f"{__package__}.setup.completion")
        found: list[CompletionItem] = getattr(module, what)(ctx, incomplete)
        return found

    return complete


RECIPE = click.Argument(["recipe"], metavar="RECIPE", shell_complete=_completes("recipes"))
ACTION = click.Argument(["action"], metavar="ACTION", shell_complete=_completes("actions"))
RECIPES = _completes("recipes_or_actions")
ANY_RECIPES = click.Argument(["recipes"], nargs=-1, metavar="[RECIPE]...", shell_complete=RECIPES)
WITH_ACTIONS = click.Argument(
    ["recipes"], nargs=-1, required=True, metavar="RECIPE... [-- ACTION...]", shell_complete=RECIPES
)
WORDS = _completes("words")
JSON = click.Option(
    ["--json", "as_json"], is_flag=True, help="One JSON document on stdout, all else on stderr."
)
PATH = click.Path(path_type=Path)
SET = _repeatable("--set overrides", "KEY=VALUE", "Override a key of the recipe", "keys")
MACHINE = click.Option(["--machine"], metavar="FILE", type=PATH, help="The machine file.")
OF_STORE = (
    click.Option(["--cache"], metavar="DIR", type=click.Path(), help="Folder of the store."),
    MACHINE,
)
OF_REMOTES = (
    _flag("--offline", "Ask no hub and no remote for anything."),
    _flag("--require-remote", "Fail where a remote does not answer."),
)
OF_RECIPE = (SET, *OF_STORE, *OF_REMOTES)
OF_ACTIONS = (_repeatable("--rebuild", "ACTION", "Run an action that is recorded", "actions"), *OF_RECIPE)

REMOTE = (MACHINE, JSON)
remote = Commands(
    "remote",
    [
        Command(
            "shared.remotes.init", "Try what a remote can, and write dem-remote.json at its root.", *REMOTE
        ),
        Command("shared.remotes.show", "Show namespaces, what was probed, and how much is there.", *REMOTE),
        Command(
            "shared.remotes.probe", "Try again what a remote can; exit with 1 where it is less.", *REMOTE
        ),
    ],
    help="The shared stores of the machine file or of DEM_REMOTE.",
)
cache = Commands(
    "cache",
    [
        Command("stores.stats", "Show how much the store holds, by kind and by recipe.", *OF_STORE, JSON),
        Command(
            "stores.verify",
            "Read everything in the store; exit with 1 where something is damaged.",
            *OF_STORE,
            _flag("--repair", "Set aside what is damaged, so that the next build makes it again."),
            _flag("--remote", "Look at the remotes: their records, and whether all objects are there."),
            JSON,
        ),
        Command(
            "stores.gc",
            "Delete what no recipe and no running build needs.",
            click.Option(["--max-size"], metavar="SIZE", help="Stop when the store is as small: 50G."),
            click.Option(["--older-than"], metavar="SPAN", help="Keep what was used within this: 30d."),
            _flag("--vectors", "Take vectors and checkpoints too: GPU-hours."),
            click.Option(["--grace"], metavar="SPAN", help="Keep what is younger; 1d if not given."),
            _flag("--dry-run", "Only say what would go."),
            click.Option(
                ["--remote"],
                metavar="NAMESPACE",
                help="Collect in that namespace, which this machine writes.",
            ),
            *OF_STORE,
            JSON,
        ),
        Command(
            "shared.exchange.push",
            "Push what builds made here, and a remote lacks.",
            ANY_RECIPES,
            *OF_STORE,
        ),
        Command(
            "shared.exchange.pull",
            "Fetch what is recorded in a remote and is not here.",
            ANY_RECIPES,
            _flag("--records", "Records alone, not their bytes."),
            *OF_STORE,
        ),
        remote,
    ],
    help="The store: what it holds, whether it is sound, and what of it can go.",
)
JOBS = _number("--jobs", "Actions at once.")
TRUST = _flag("--trust-tasks", "Run local task files, which are code.")
LOCKED = _flag("--locked", "Fail (4) where the lock is not what is there.")
DRY_RUN = _flag("--dry-run", "Show what would change, and write nothing.")
app = Commands(
    "dem",
    [
        Command(
            "edit.init.init",
            "Write a recipe to begin with: it asks for what no flag says.\n\n"
            "RECIPE is its file, by default recipe.toml; with --demo a folder, by default dem-demo.",
            click.Argument(["place"], required=False, metavar="[RECIPE]"),
            click.Option(["--base"], metavar="MODEL", help="A hub id, a model's folder or a GGUF file."),
            _repeatable("--data", "NAME=PATH", "A dataset, as dem add takes it"),
            _flag("--demo", "Fetch the demo's base and make its data, beside its recipe."),
            DRY_RUN,
            _flag("--offline", "Ask no hub for anything."),
        ),
        Command(
            "edit.tables.add",
            "Add a dataset or a vector from elsewhere to a recipe, and say what is seen there.\n\n"
            "PATH is a file of rows, a pattern, or the folder of a model or an adapter; hub:ORG/NAME is a dataset on "
            "the hub. RECIPE may be left out where there is one in this folder.",
            click.Argument(["words"], nargs=-1, metavar="[RECIPE] NAME PATH|hub:ID", shell_complete=WORDS),
            click.Option(
                ["--as", "kind"],
                type=click.Choice(["dataset", "probe", "checkpoint", "adapter"]),
                help="What it is, where that is not what it looks like.",
            ),
            click.Option(["--omega"], metavar="NUMBER|tune", help="The vector's weight."),
            _repeatable(
                "--set overrides",
                "KEY=VALUE",
                "A key of the new table: columns.prompt=question",
                "table_keys",
            ),
            DRY_RUN,
            _flag("--offline", "Ask no hub for it."),
        ),
        Command(
            "edit.tables.remove",
            "Take a dataset, vector, probe or baseline out of a recipe, and say what stays in the cache.",
            click.Argument(["words"], nargs=-1, metavar="[RECIPE] NAME", shell_complete=WORDS),
            DRY_RUN,
            *OF_STORE,
        ),
        Command(
            "edit.withdraw.withdraw",
            "Take a dataset, vector or probe out of a recipe, build, and attest that the model has nothing of it.\n\n"
            "Without NAME attest that of all that was withdrawn. Fails (1) where the model has some of it.",
            click.Argument(["words"], nargs=-1, metavar="[RECIPE] [NAME]", shell_complete=WORDS),
            DRY_RUN,
            TRUST,
            JOBS,
            *OF_RECIPE,
        ),
        Command(
            "build.build",
            "Plan, run what is due, publish out/NAME/ and show the results.\n\n"
            "ACTION is the name of one, as `dem plan` lists them, or a quoted pattern, as 'loss:composed:*'; so it is "
            "in all commands.",
            WITH_ACTIONS,
            LOCKED,
            _flag("--no-train", "Fail (4) where a vector is missing."),
            _flag("--keep-going", "After a failure, do what can be done."),
            TRUST,
            JOBS,
            *OF_ACTIONS,
            JSON,
            on_actions=True,
        ),
        Command(
            "work.work",
            "Run what is due of recipes beside other workers on one store, and publish nothing in out/.",
            WITH_ACTIONS,
            _number("--slots jobs", "Actions at once."),
            click.Option(
                ["--until-idle"],
                metavar="SPAN",
                default="10m",
                show_default=True,
                help="End when others have had all that is left for this long.",
            ),
            LOCKED,
            TRUST,
            *OF_RECIPE,
            click.Option(
                ["--json", "as_json"], is_flag=True, help="A JSON document a line on stdout, an event each."
            ),
            on_actions=True,
        ),
        Command(
            "review.ci.ci",
            "Review what a branch does to the recipes of a git repository, as a pull request is reviewed.\n\n"
            "RECIPE is a path or pattern; without one, all recipes that git has at either revision.",
            ANY_RECIPES,
            click.Option(
                ["--base"], metavar="REV", help="What it is to be merged into, such as origin/main."
            ),
            click.Option(["--head"], metavar="REV", help="What is reviewed; by default what is checked out."),
            _flag("--no-train", "Train nothing: say what is to be trained first (4)."),
            _flag("--untrusted", "Take the head for a stranger's; a fork's pull request always is."),
            TRUST,
            click.Option(["--summary"], metavar="FILE", type=PATH, help="Write the review as Markdown."),
            click.Option(["--junit"], metavar="FILE", type=PATH, help="Write it as JUnit's XML."),
            _flag("--github", "Write annotations, outputs and the job's summary for GitHub Actions."),
            click.Option(
                ["--render"], metavar="FILE", type=PATH, help="Write it again, of the JSON in FILE."
            ),
            JOBS,
            *OF_STORE,
            *OF_REMOTES,
            JSON,
        ),
        Command(
            "foresight.score.score",
            "Foretell what a vector of new rows would do to each skill of a recipe, before it is trained.\n\n"
            "NEW is a file of rows, a pattern or hub:ORG/NAME, as dem add takes it; of several, the best comes first. "
            "The recipe must be built. How earlier predictions held is told beside.",
            click.Argument(["words"], nargs=-1, metavar="[RECIPE] NEW...", shell_complete=WORDS),
            _number("--rows", "Validation rows of each skill.", least=2, default=32),
            _number("--sample", "New rows that the gradient is of.", default=64),
            _repeatable(
                "--set overrides",
                "KEY=VALUE",
                "A key of the table that the new rows would have: columns.prompt=question",
                "table_keys",
            ),
            *OF_STORE,
            *OF_REMOTES,
            JSON,
        ),
        Command(
            "inspect.plan",
            "Show what would run, and why.",
            RECIPE,
            _flag("--check", "Exit with 4 when something is due."),
            *OF_ACTIONS,
            JSON,
            on_actions=True,
        ),
        Command(
            "diff.diff",
            "Show what differs between two recipes, revisions or models: keys, ω, metrics, cost.\n\n"
            "A and B are each a recipe's file, a recipe in git (REV:PATH, from the root of the repository, or "
            "REV:./PATH from here), or the folder of a published model. Nothing is run.",
            click.Argument(["before"], metavar="A", shell_complete=_completes("recipes")),
            click.Argument(["after"], metavar="B", shell_complete=_completes("recipes")),
            _flag("--exit-code", "Exit with 1 where they differ."),
            _flag("--locked", "Fail (4) where a lock is not what is there."),
            *OF_STORE,
            JSON,
        ),
        Command(
            "blame.blame.blame",
            "Say which vector broke or mended one item, by asking the model without each; nothing is trained.\n\n"
            "TASK is a task, or a dataset or probe with test rows (loss:NAME if a task has that name); ITEM is a place "
            "in it, from 0; without one, those are listed that composing changed.",
            RECIPE,
            click.Argument(["task"], metavar="TASK", shell_complete=_completes("measured")),
            click.Argument(["item"], metavar="[ITEM]", required=False),
            click.Option(["--metric"], metavar="NAME", help="Of a task; its first if not given."),
            _flag("--pairs", "Ask the model without each two vectors, too."),
            TRUST,
            *OF_RECIPE,
            JSON,
        ),
        Command(
            "inspect.why",
            "Show which input or parameter of an action differs from its last build.",
            RECIPE,
            ACTION,
            *OF_RECIPE,
        ),
        Command(
            "inspect.check",
            "Find all mistakes of a recipe, without reading data or running anything.",
            RECIPE,
            SET,
            JSON,
        ),
        Command(
            "inspect.lock",
            "Write the recipe's lock: every outside name with its digest.",
            RECIPE,
            _flag("--upgrade", "Move hub revisions to what they name now."),
            *OF_STORE,
        ),
        Command(
            "data.data",
            "Show decoded examples of a dataset, what counts for the loss, and its counts.\n\n"
            "NAME is a dataset, probe or mixture of the recipe.",
            RECIPE,
            click.Argument(["name"], metavar="NAME", shell_complete=_completes("names")),
            _number("--rows -n", "Examples to show.", default=3),
            click.Option(["--split"], default="train", show_default=True, help="train, validation or test."),
            *OF_RECIPE,
        ),
        Command(
            "inspect.show",
            "Show what made a model or the result of an action: inputs, parameters, machine, digests.\n\n"
            "Without ACTION, of the composed model.",
            RECIPE,
            click.Argument(
                ["action"], metavar="[ACTION]", default="model", shell_complete=_completes("actions")
            ),
            *OF_RECIPE,
            JSON,
        ),
        Command(
            "inspect.logs",
            "Print the log of an action: of its result, or of its last run where that failed.",
            RECIPE,
            ACTION,
            *OF_RECIPE,
        ),
        Command(
            "release.export.export",
            "Write a vector or a model in a form that another library loads.\n\n"
            "ACTION makes it: vector:NAME, model, base … PLACE is a new folder, of GGUF a new file.",
            RECIPE,
            ACTION,
            click.Argument(["place"], metavar="PLACE", type=PATH),
            click.Option(
                ["--form"],
                type=click.Choice(["adapter", "checkpoint", "gguf"]),
                help="For peft, for transformers and vLLM, for llama.cpp; by default the last of *.gguf, else the "
                "first of a vector, the second of a model.",
            ),
            click.Option(
                ["--type", "dtype"],
                type=click.Choice(["f16", "bf16", "q8_0", "f32"]),
                help="What GGUF stores matrices in; f16 if not given.",
            ),
            _number("--rank", "Cut the adapter of this rank out of the vector."),
            click.Option(["--omega"], type=float, help="Of the vector on its base; 1 if not given."),
            *OF_RECIPE,
        ),
        Command(
            "chat.chat.chat",
            "Talk to models of a recipe side by side: in the terminal, or on a local page with ω to move.\n\n"
            "Of what is built; nothing is trained. Each line on stdin is a question, /help lists the commands.",
            RECIPE,
            click.Option(
                ["--model", "-m"],
                multiple=True,
                metavar="NAME",
                help="base, composed, a dataset or vector, a baseline; repeatable.",
                shell_complete=_completes("models"),
            ),
            click.Option(["--prompt", "-p"], metavar="TEXT", help="Answer this, and end."),
            _flag("--page", "Serve a page to this machine alone, at an address that nobody can guess."),
            click.Option(
                ["--port"],
                type=click.IntRange(0, 65535),
                default=0,
                help="Of the page; a free one if not given.",
            ),
            click.Option(["--system"], metavar="TEXT", help="The system prompt."),
            _number("--max-new-tokens", "Most tokens of an answer.", default=512),
            click.Option(
                ["--temperature"],
                type=click.FloatRange(min=0),
                default=0.0,
                show_default=True,
                help="0: the likeliest token each time, as models are judged.",
            ),
            click.Option(
                ["--top-p"],
                type=click.FloatRange(min=0, max=1, min_open=True),
                default=1.0,
                show_default=True,
                help="Draw from the likeliest tokens that are so probable together.",
            ),
            _number("--seed", "Of the draws.", least=0, default=0),
            *OF_RECIPE,
            JSON,
        ),
        Command(
            "release.publish.publish",
            "Upload the model or a vector to a repository on a hub, which is private unless --public is said.\n\n"
            "Only what is built, and passes the recipe's gates. ACTION is `model`, or a vector:NAME.",
            RECIPE,
            click.Argument(["repository"], metavar="ORG/NAME"),
            click.Argument(["action"], metavar="[ACTION]", default="model"),
            click.Option(["--revision"], metavar="BRANCH", help="The branch; main if not given."),
            _flag("--public", "Let everybody read it."),
            *OF_RECIPE,
        ),
        Command(
            "report.report",
            "Draw out/NAME/report.html from what is recorded, and run nothing.",
            RECIPE,
            *OF_RECIPE,
        ),
        Command("stores.ls", "List what the store holds.", *OF_STORE, JSON),
        cache,
        Command(
            "setup.schema.schema",
            "Print the JSON Schema of recipes, which editors complete and check by.\n\n"
            "With FILE it is written beside that recipe or machine file, whose first line then names it.",
            click.Argument(["file"], required=False, metavar="[FILE]", shell_complete=_completes("recipes")),
            click.Option(
                ["--of"], type=click.Choice(["recipe", "machine"]), help="What it is the schema of."
            ),
        ),
        Command(
            "setup.completion.completion",
            "Print the script that completes recipes, actions and keys in a shell: bash, zsh or fish.",
            click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"])),
        ),
        Command(
            "setup.doctor.doctor",
            "Look at this machine, its cache and its remotes, and say how to mend what is wrong (1).",
            *OF_STORE,
            _flag("--offline", "Ask no hub and no remote for anything."),
            JSON,
        ),
    ],
    help="A build system for models: fine-tune a vector per dataset, compose them, rebuild only what changed.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__, message="dem %(version)s", help="Print the version.")(app)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status; a user's mistake is a line on stderr, never a traceback."""
    if os.environ.get("_DEM_COMPLETE", "").startswith("bash_"):
        import_module(f"{__package__}.setup.completion").add_bash()
    command = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        status = app.main(args=list(arguments), prog_name="dem", standalone_mode=False)
    except DemError as error:
        return _report(error, command)
    except (KeyboardInterrupt, click.Abort):
        return stopped(command)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone; nothing more to say to it
        return 1
    except click.ClickException as error:
        if (hint := _hint(error)) and isinstance(error, click.exceptions.NoSuchCommand):
            error = click.exceptions.NoSuchCommand(
                error.command_name, ctx=error.ctx
            )  # not what is spelt alike
        error.show()  # a mistake of the call itself, in click's own words
        if hint:
            click.echo(f"Hint: {hint}", err=True)
        if "--json" in command:
            _write_failure(UsageError(error.format_message(), hint=hint), command)
        return UsageError.exit_status
    return int(status or 0)


def _hint(error: click.ClickException) -> str | None:
    """How to mend a call that click refuses, where that can be told."""
    if isinstance(error, click.exceptions.NoSuchCommand):  # click itself tells those of a similar spelling
        within = error.ctx.command_path.split()[1:] if error.ctx is not None else []
        return _meant(error.command_name, within)
    if not isinstance(error, click.MissingParameter) or error.ctx is None:
        return None
    if error.param in {RECIPE, WITH_ACTIONS}:
        return _recipes_to_name(error.ctx.command_path)
    recipe = error.ctx.params.get("recipe")
    if recipe is None:
        return None
    if not os.path.exists(recipe):  # noqa: PTH110  a name that is too long is one, too; it is what was meant to follow the recipe
        return _recipes_to_name(error.ctx.command_path, recipe)
    return f"`dem plan {recipe}` lists the actions" if error.param is ACTION else None


def _meant(word: str, within: list[str]) -> str | None:
    """The command that has this name or is called so elsewhere; of several the one nearest to a group."""

    def steps(path: list[str]) -> tuple[int, int]:
        shared = len([*takewhile(lambda both: both[0] == both[1], zip(path[:-1], within, strict=False))])
        return len(path) - 1 - shared, len(within) - shared  # groups down, which are more to know, then up

    paths = [p for p in _paths(app, []) if p[-1] == word or word in OTHER_NAMES.get(" ".join(p), ())]
    return " ".join(["dem", *min(paths, key=steps)]) if paths else None


def _paths(group: click.Group, within: list[str]) -> Iterator[list[str]]:
    """The words of each command and group of commands in a group."""
    for name, command in group.commands.items():
        yield (path := [*within, name])
        if isinstance(command, click.Group):
            yield from _paths(command, path)


def _recipes_to_name(command: str, *others: str) -> str:
    """What can be named in this folder, where a call names no recipe and its command takes one."""
    here = import_module(f"{__package__}.setup.completion").recipes_here()
    if not here:
        return "no recipe is in this folder; `dem init` writes one, `dem init --demo` one to try"
    return (
        " ".join((command, here[0], *others)) if len(here) == 1 else f"the recipes here are {', '.join(here)}"
    )


def stopped(command: Sequence[str]) -> int:
    """Say that the user has stopped a call; return its status."""
    return _report(InterruptedBuildError("stopped"), command)


def _report(error: DemError, command: Sequence[str]) -> int:
    from dem_build.view.text import make_console, render_error  # noqa: PLC0415  a call that succeeds needs none

    if "--json" in command:
        _write_failure(error, command)
    render_error(error, make_console(stderr=True))
    return error.exit_status


def _write_failure(error: DemError, command: Sequence[str]) -> None:
    from dem_build.report.documents import failure_document  # noqa: PLC0415  as above
    from dem_build.view.text import write_json  # noqa: PLC0415  as above

    documents = [failure_document(recipe, error) for recipe in _recipes(command) or [""]]
    write_json(documents if len(documents) > 1 else documents[0])


def _recipes(command: Sequence[str]) -> list[str]:
    """What are most likely the recipes in a call that failed before its options were understood."""
    name, words, takes = command[0], list(command[1:]), {"recipe"}
    if name in app.commands:
        parameters = app.commands[name].params
        options = click.Command(name, params=[p for p in parameters if isinstance(p, click.Option)])
        lenient = click.Context(options, ignore_unknown_options=True, resilient_parsing=True)
        words = options.make_parser(lenient).parse_args(words)[1]  # what belongs to no option
        takes = {str(parameter.name) for parameter in parameters}
    words = [word for word in words if not word.startswith("-")]
    found = [word for word in words if word.endswith(".toml")] or words
    if "recipes" in takes:
        return found
    return found[:1] if "recipe" in takes else []
