"""A chat template that the recipe brings: judged before any work, without a tokenizer and without transformers.

It is rendered as transformers would: the same sandbox, extensions and names. And in a process of its own, which is this
module: a stranger's may loop without end, or write without end, and Jinja's sandbox keeps a template from files and
code, and not from time and memory. That process reads the template from standard input; on standard output a JSON
document says what is wrong with it, and in which line.
"""

from __future__ import annotations

import datetime as dt
import json
import resource
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dem_build.errors import UsageError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment
    from jinja2.nodes import Node
    from jinja2.parser import Parser

ASKED: tuple[dict[str, str], ...] = ({"role": "user", "content": "What is two plus two?"},)
ANSWERED: tuple[dict[str, str], ...] = (*ASKED, {"role": "assistant", "content": "It is four."})
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")

# What code in a template can raise, besides jinja2's own errors, which are not imported unless there is a template.
FAULTS = (
    TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError, SyntaxError,
)  # fmt: skip
ENDLESS = "takes too long, or too much memory, to write a question and its answer"
PATIENCE = 120.0
"""Seconds of a busy machine; the trial itself bounds the processor's time."""
CPU_SECONDS = 3
MOST_BYTES = 1 << 30
MEND = "a template writes `messages`, each with a `role` and a `content` that is text"


def read_template(path: Path) -> str:
    """A template's text.

    Raises:
        UsageError: There is no such file, or it is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise UsageError(what, where=str(path), hint="a path starts from the recipe's folder") from error
    except UnicodeDecodeError as error:
        raise UsageError("is not UTF-8", where=str(path), hint="save it as UTF-8") from error


@dataclass(frozen=True)
class Fault:
    """What is wrong with a template, and in which line where that is known."""

    what: str
    line: int | None = None


def check_template(text: str, where: str) -> None:
    """Refuse a chat template that cannot write a question and its answer.

    Raises:
        UsageError: It is no Jinja, raises, leaves out what a turn says, or takes too long or too much memory.
    """
    fault = _tried(text)
    if fault is None:
        return
    if fault.line is not None:
        raise UsageError(fault.what, where=f"{where}:{fault.line}", hint="mend that line")
    raise UsageError(fault.what, where=where, hint=MEND)


def _tried(text: str) -> Fault | None:
    """What a process of its own finds, which may be killed."""
    call = [sys.executable, "-P", "-m", "dem_build.data.template"]
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter and module
            call,
            input=text.encode("utf-8", "surrogatepass"),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Fault(ENDLESS)
    if done.returncode < 0:  # killed at its bounds
        return Fault(ENDLESS)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return Fault(f"refuses a question and its answer: {last}")
    found = parse_json(done.stdout)
    return None if found is None else Fault(found["what"], found["line"])


def judge(text: str) -> Fault | None:
    """What is wrong with a chat template, None where it writes a question and its answer.

    It runs as long and takes as much memory as the template makes it.
    """
    from jinja2 import TemplateError, TemplateSyntaxError  # noqa: PLC0415  few recipes have a template of their own

    names = {name: f"<{name}>" for name in TOKENS} | {"tools": None, "documents": None}
    try:
        template = _environment().from_string(text)
        for turns, asks in ((ASKED, True), (ANSWERED, False)):
            written = template.render(messages=[*turns], add_generation_prompt=asks, **names)
            if what := leaves_out(written, turns):
                return Fault(what)
    except TemplateSyntaxError as error:
        return Fault(f"is no Jinja template: {error.message}", error.lineno)
    except (TemplateError, *FAULTS) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        return Fault(f"refuses a question and its answer: {reason}")
    return None


def leaves_out(written: str, turns: tuple[dict[str, str], ...] = ASKED) -> str | None:
    """Say which turn a rendered template leaves out, None where it has them all."""
    missing = [turn["role"] for turn in turns if turn["content"] not in written]
    return f"leaves out what the {missing[0]} says" if missing else None


def constants(text: str) -> set[str]:
    """The texts in a template's code; none of what is no template: to render it says so."""
    from jinja2 import TemplateError, nodes  # noqa: PLC0415

    try:
        found = _environment().parse(text).find_all(nodes.Const)
    except (TemplateError, *FAULTS):
        return set()
    return {node.value for node in found if isinstance(node.value, str)}


def sought(text: str) -> set[str]:
    """The texts that a template's code compares with, or calls something with; none of what is no template."""
    from jinja2 import TemplateError, nodes  # noqa: PLC0415

    try:
        asking = _environment().parse(text).find_all((nodes.Compare, nodes.Call, nodes.Filter, nodes.Test))
    except (TemplateError, *FAULTS):
        return set()
    found = (node.value for node in asking for node in node.find_all(nodes.Const))
    return {value for value in found if isinstance(value, str)}


def variables(text: str) -> set[str]:
    """The names that a template asks of those who render it; none of what is no template."""
    from jinja2 import TemplateError, meta  # noqa: PLC0415

    try:
        return meta.find_undeclared_variables(_environment().parse(text))
    except (TemplateError, *FAULTS):
        return set()


def _environment() -> Environment:
    from jinja2 import TemplateError  # noqa: PLC0415
    from jinja2.ext import Extension, loopcontrols  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    class Generation(Extension):
        """`{% generation %}` marks an answer, for those who ask where it is: here it is passed through."""

        tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **more)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = dt.datetime(2025, 1, 1, tzinfo=dt.UTC).strftime
    return environment


def _trial() -> None:
    """Judge one template, within bounds of time and memory."""
    bounds = ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MOST_BYTES), (resource.RLIMIT_CORE, 0))
    for bound, most in bounds:
        with suppress(OSError, ValueError):  # a system without it, or with a lower one
            resource.setrlimit(bound, (most, most))
    text = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    try:
        fault = judge(text)
    except MemoryError:
        fault = Fault(ENDLESS)
    sys.stdout.write(json.dumps(None if fault is None else {"what": fault.what, "line": fault.line}))


if __name__ == "__main__":
    _trial()
