"""A chat template that the recipe brings: judged before any work, without a tokenizer and without transformers.

It is rendered as transformers would: the same sandbox, extensions and names.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from dem_build.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment
    from jinja2.nodes import Node
    from jinja2.parser import Parser

__all__ = ["ASKED", "FAULTS", "check_template", "leaves_out", "read_template"]

ASKED: tuple[dict[str, str], ...] = ({"role": "user", "content": "What is two plus two?"},)
ANSWERED: tuple[dict[str, str], ...] = (*ASKED, {"role": "assistant", "content": "It is four."})
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")

# What code in a template can raise, besides jinja2's own errors, which are not imported unless there is a template.
FAULTS = (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError)
MEND = "a template writes `messages`, each with a `role` and a `content` that is text"


def read_template(path: Path) -> str:
    """Return a template's text.

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


def check_template(text: str, where: str) -> None:
    """Refuse a chat template that cannot write a question and its answer.

    Args:
        text: The template.
        where: What to call it in messages.

    Raises:
        UsageError: It is no Jinja, raises, or leaves out what a turn says.
    """
    from jinja2 import TemplateError, TemplateSyntaxError  # noqa: PLC0415  few recipes have a template of their own

    names = {name: f"<{name}>" for name in TOKENS} | {"tools": None, "documents": None}
    try:
        template = _environment().from_string(text)
        for turns, asks in ((ASKED, True), (ANSWERED, False)):
            written = template.render(messages=[*turns], add_generation_prompt=asks, **names)
            if what := leaves_out(written, turns):
                raise UsageError(what, where=where, hint=MEND)
    except TemplateSyntaxError as error:
        what = f"is no Jinja template: {error.message}"
        raise UsageError(what, where=f"{where}:{error.lineno}", hint="mend that line") from error
    except (TemplateError, *FAULTS) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"refuses a question and its answer: {reason}", where=where, hint=MEND) from error


def leaves_out(written: str, turns: tuple[dict[str, str], ...] = ASKED) -> str | None:
    """Say which turn a rendered template leaves out, None where it has them all."""
    missing = [turn["role"] for turn in turns if turn["content"] not in written]
    return f"leaves out what the {missing[0]} says" if missing else None


def _environment() -> Environment:
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
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = dt.datetime(2025, 1, 1, tzinfo=dt.UTC).strftime
    return environment


def _raise(message: str) -> None:
    from jinja2 import TemplateError  # noqa: PLC0415

    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **more)
