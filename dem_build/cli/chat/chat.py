"""`dem chat`: talk to a recipe's models, with what is in the store."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.action import BASE, COMPOSED
from dem_build.cli.chat.models import ChatModels, Settings, settings_of
from dem_build.cli.chat.terminal import Talk, documents, talk_in_terminal
from dem_build.cli.edit.changes import opened
from dem_build.errors import UsageError
from dem_build.session.session import open_session
from dem_build.slots import MEMORY, SLEEPING
from dem_build.view.text import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.session.session import Call


def chat(  # noqa: PLR0913  the command's options
    recipe: str,
    call: Call,
    *,
    model: Sequence[str],
    prompt: str | None,
    page: bool,
    port: int,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> int:
    """Talk to models of a recipe: in the terminal, for one question of a script, or on a page.

    Raises:
        UsageError: There is no such model, or what it is made of is not built.
    """
    if prompt is not None and page:
        raise UsageError("--prompt is answered without a page", hint="leave out one of them")
    if call.as_json and prompt is None:
        raise UsageError("--json prints the answers to one question", hint="ask it with --prompt")
    settings = Settings(max_new_tokens, temperature, top_p, seed)
    if "torch" not in sys.modules:  # which reads them when it is loaded
        for name, value in (SLEEPING | MEMORY).items():
            os.environ.setdefault(name, value)
    with ExitStack() as held:
        models = _models(recipe, call, held)
        names = list(dict.fromkeys(model)) or ([BASE, COMPOSED] if page else [COMPOSED])
        models.require(names)
        talk = Talk(models, names, settings_of(settings._asdict(), settings), system or "")
        if page:
            from dem_build.cli.chat.page import serve  # noqa: PLC0415  a terminal needs no server

            return serve(talk, port)
        models.load(names)
        # What the libraries have made stays, and what answers leave is to be looked at: a chat is no short command.
        gc.freeze()
        gc.enable()
        if prompt is None:
            if hasattr(sys.stdin, "reconfigure"):
                with suppress(OSError):  # somebody has read of it before
                    sys.stdin.reconfigure(errors="surrogateescape")  # a line that is no UTF-8 is told as one
            return talk_in_terminal(talk, None if sys.stdin.isatty() else iter(sys.stdin))
        if call.as_json:
            write_json({"recipe": recipe, "prompt": prompt, "answers": documents(talk, prompt)})
            return 0
        return talk_in_terminal(talk, iter([f"/{prompt}" if prompt.startswith("/") else prompt]))


def _models(recipe: str, call: Call, held: ExitStack) -> ChatModels:
    """The models of a recipe, which stay in the store until the chat ends."""
    draft = opened(
        recipe
    )  # before it is planned: where it is changed meanwhile, nothing is written over that
    session = open_session(recipe, call).kept(held)
    models = ChatModels(
        session, draft, Path(held.enter_context(tempfile.TemporaryDirectory(prefix="dem-chat-")))
    )
    held.callback(models.close)
    return models
