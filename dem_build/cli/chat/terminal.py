"""A chat in a terminal, or of a script: lines are questions and commands, and answers come as they are made."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.cli.chat.models import mean_of
from dem_build.cli.edit.changes import settle
from dem_build.errors import DemError, UsageError
from dem_build.recipe.messages import nearest
from dem_build.report.text import clean
from dem_build.view.text import make_console, render_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console, RenderableType

    from dem_build.cli.chat.models import ChatModels, Settings
    from dem_build.data.turns import Turn
    from dem_build.digest import JSON
    from dem_build.model.generation import Answered
    from dem_build.session.summed import Omega

NARROWEST = 36
"""Characters of a column; where fewer are left for each model, answers stand below one another."""
HELP = (
    ("/model NAME…", "ask these models from now on, side by side; alone: which there are"),
    ("/omega NAME 0.4", "give a vector another ω, and compose anew; alone: the ω as they are"),
    ("/omega reset", "take the ω that the chat began with"),
    ("/write", "write the ω into the recipe"),
    ("/reset", "forget the conversation"),
    ("/quit", "end, as Ctrl-D does; Ctrl-C ends an answer, not the chat"),
    ("//…", "a question that begins with a slash"),
)


@dataclass
class Talk:
    """A conversation with some models, each of which knows its own answers.

    Attributes:
        system: The system prompt, empty for none.
        turns: Model → what was said.
    """

    models: ChatModels
    names: Sequence[str]
    settings: Settings
    system: str = ""
    turns: dict[str, list[Turn]] = field(default_factory=dict)

    def ask(self, name: str, question: str, tell: Callable[[str], None]) -> Answered:
        """Ask one of them, and tell its answer as it comes; what was told of it before an error is remembered.

        Raises:
            DemError: It cannot answer; the question is not remembered.
        """
        before = self.turns.get(name) or [{"role": "system", "content": self.system}] * bool(self.system)
        turns: list[Turn] = [*before, {"role": "user", "content": question}]
        heard: list[str] = []

        def hear(text: str) -> None:
            heard.append(text)
            tell(text)

        try:
            answer = self.models.ask(name, turns, self.settings, hear)
        except KeyboardInterrupt:
            if text := "".join(heard):
                self.turns[name] = [*turns, {"role": "assistant", "content": text}]
            raise
        self.turns[name] = [*turns, {"role": "assistant", "content": answer.text}]
        return answer


def documents(talk: Talk, question: str) -> list[JSON]:
    """What each model answers to one question."""
    found: list[JSON] = []
    for name in talk.names:
        answer = talk.ask(name, question, lambda _: None)
        told = {"model": name, "answer": answer.text, "tokens": answer.tokens, "ended": answer.ended}
        found.append(told | {"seconds": round(answer.seconds, 3)})
    return found


def talk_in_terminal(talk: Talk, lines: Iterator[str] | None = None) -> int:
    """Answer lines until there are no more; without any, ask for them on the terminal.

    Raises:
        DemError: A line cannot be answered, and nobody sits there who could say another one.
    """
    terminal = _Terminal(talk)
    asked = lines is None
    if asked:
        terminal.greet()
    for line in _typed(talk) if lines is None else lines:
        try:
            if not terminal.take(line.strip()):
                break
        except DemError as error:
            if not asked:
                raise
            render_error(error, terminal.console)
        except KeyboardInterrupt:
            if not asked:
                raise
            terminal.console.print(Text("  stopped", "dim"))
    return 0


def _typed(talk: Talk) -> Iterator[str]:
    """Yield what the user types, until Ctrl-D."""
    try:
        import readline  # noqa: PLC0415  what edits a line, and completes it
    except ImportError:  # a Python that was built without
        readline = None  # type: ignore[assignment]
    if readline is not None:
        words = ["/model", "/omega", "/write", "/reset", "/help", "/quit", *talk.models.names]
        readline.set_completer(lambda text, n: [*(w for w in words if w.startswith(text)), None][n])
        readline.set_completer_delims(" ")
        readline.parse_and_bind("tab: complete")
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            sys.stdout.write("\n")
        except EOFError:
            sys.stdout.write("\n")
            return


class _Terminal:
    """Where answers are shown, and what the commands do."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.console = make_console()
        self.commands: dict[str, Callable[[list[str]], object]] = {
            "model": self.model,
            "omega": self.omega,
            "write": self.write,
            "reset": self.reset,
            "help": self.help,
        }

    @property
    def models(self) -> ChatModels:
        return self.talk.models

    def greet(self) -> None:
        """Say who answers, and how one finds out more."""
        self.say(f"{', '.join(self.talk.names)} of {self.models.named}; /help says what else there is")
        if not self.models.tokenizer.has_chat_template:
            self.say(
                "the base has no chat template: each line is continued as it stands, and none before it is known"
            )

    def say(self, text: str, style: str = "dim") -> None:
        self.console.print(Text(clean(text), style), soft_wrap=True)

    def take(self, line: str) -> bool:
        """Answer a question, or do what a command says; whether to go on."""
        if not line:
            return True
        if not line.startswith("/") or line.startswith("//"):
            self.answer(line[1:] if line.startswith("//") else line)
            return True
        name, *words = line[1:].split()
        if name in {"quit", "exit"}:
            return False
        if name not in self.commands:
            raise UsageError(f"there is no command /{name}", hint=nearest(name, self.commands))
        self.commands[name](words)
        return True

    # Commands

    def help(self, words: list[str]) -> None:
        del words
        wide = max(len(command) for command, _ in HELP)
        for command, does in HELP:
            self.console.print(Text.assemble((f"{command:{wide}}", "cyan"), f"  {does}"))

    def model(self, words: list[str]) -> None:
        if words:
            names = list(dict.fromkeys(word.strip(",") for word in words))
            self.models.load(names)
            self.talk.names = names
            self.say(f"asked now: {', '.join(names)}")
            return
        self.models.look_again()
        for name in self.models.names:
            missing = self.models.missing(name)
            mark = "•" if name in self.talk.names else " "
            told = f"  {', '.join(missing)} not built" if missing else ""
            self.console.print(
                Text.assemble(f"{mark} {clean(name)}", (clean(told), "yellow")), soft_wrap=True
            )

    def omega(self, words: list[str]) -> None:
        changes = dict.fromkeys(self.models.omega) if words == ["reset"] else _omega_in(words)
        seconds = self.models.move(changes) if changes else None
        for name, omega in self.models.omega.items():
            self.say(f"ω {name:{max(map(len, self.models.omega))}}  {_shown(omega)}", "")
        if seconds is not None:
            self.say(f"composed anew in {seconds:.2f}s")
        if note := self.models.note():
            self.say(f"note: {note}", "yellow")

    def write(self, words: list[str]) -> None:
        del words
        settle(self.models.draft, self.models.changed_text())
        self.models.written()

    def reset(self, words: list[str]) -> None:
        del words
        self.talk.turns.clear()
        self.say("forgotten")

    # Answers

    def answer(self, question: str) -> None:
        names = self.talk.names
        if self.console.is_terminal and len(names) > 1 and self.console.width >= NARROWEST * len(names):
            _Columns(self.console, self.talk).answer(question)
            return
        for name in names:
            if len(names) > 1:
                self.console.print(Text(clean(name), "bold cyan"))
            told = _Told(self.console)
            try:
                answer = self.talk.ask(name, question, told)
            finally:
                told.end()
            if (cut := _cut(answer)) and self.console.is_terminal:
                self.say(cut)


class _Told:
    """Writes an answer as it comes: to a terminal without what that would obey, elsewhere as it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = False

    def __call__(self, text: str) -> None:
        text = text if self._begun else text.lstrip()
        if text:
            self._begun = True
            self._console.file.write(clean(text) if self._console.is_terminal else text)
            self._console.file.flush()

    def end(self) -> None:
        self._console.file.write("\n")
        self._console.file.flush()


class _Columns:
    """Answers side by side: the ends of long ones while they come, then all of each."""

    def __init__(self, console: Console, talk: Talk) -> None:
        self._console, self._talk = console, talk
        self._texts = dict.fromkeys(talk.names, "")
        self._notes = dict.fromkeys(talk.names, "")
        self._most = 0  # lines that are shown of an answer; 0: all

    def answer(self, question: str) -> None:
        from rich.live import Live  # noqa: PLC0415  only here

        with Live(
            get_renderable=self._drawn, console=self._console, refresh_per_second=8, vertical_overflow="crop"
        ) as live:
            self._most = self._console.height - 3
            try:
                for name in self._texts:
                    self._notes[name] = "…"
                    answer = self._talk.ask(name, question, partial(self._hear, name))
                    self._notes[name] = _cut(answer)
            finally:
                self._notes = {name: note.strip("…") for name, note in self._notes.items()}
                self._most = 0
                live.refresh()

    def _hear(self, name: str, text: str) -> None:
        self._texts[name] += text

    def _drawn(self) -> RenderableType:
        from rich.table import Table  # noqa: PLC0415  only here

        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for _ in self._texts:
            grid.add_column(ratio=1, overflow="fold")
        grid.add_row(*(Text(clean(name), "bold cyan") for name in self._texts))
        grid.add_row(*map(self._cell, self._texts))
        return grid

    def _cell(self, name: str) -> Text:
        text = Text(clean(self._texts[name].strip()))
        if self._most:
            width = self._console.width // len(self._texts) - 2
            lines = text.wrap(self._console, width, overflow="fold")
            text = Text("\n").join(lines[-self._most :])
        return text if not self._notes[name] else Text.assemble(text, " ", (self._notes[name], "dim"))


def _omega_in(words: Sequence[str]) -> Mapping[str, float | None]:
    """What `/omega` is given: names, each with a number behind it, `=` between them or not.

    Raises:
        UsageError: It is something else.
    """
    parts = " ".join(words).replace("=", " ").split()
    try:
        return {name: float(value) for name, value in zip(parts[::2], parts[1::2], strict=True)}
    except ValueError as error:
        raise UsageError("a vector and a number are needed", hint="/omega NAME 0.4") from error


def _shown(omega: Omega) -> str:
    each = "  (the mean: each layer has its own)" if isinstance(omega, dict) else ""
    return f"{mean_of(omega):.6g}{each}"


def _cut(answer: Answered) -> str:
    return "" if answer.ended else f"(cut off at {answer.tokens} tokens)"
