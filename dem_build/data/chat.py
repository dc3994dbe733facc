"""Renders an example in the base's chat template, and finds where its completion starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.data.formats import Example
    from dem_build.data.tokenise import Tokenizer

__all__ = ["PINNED_DATE", "pin_date", "render"]

# Some templates print today's date (`strftime_now`): the data would change overnight. Fixed, and part of the
# kind's version. English names by hand, because strftime's follow the locale.
PINNED_DATE = {
    "%d": "01", "%-d": "1", "%m": "01", "%B": "January", "%b": "Jan", "%y": "25", "%Y": "2025", "%A": "Wednesday",
    "%a": "Wed", "%j": "001", "%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM",
}  # fmt: skip


def pin_date(template: str) -> str:
    """Return a chat template whose `strftime_now` always says 1 January 2025; others come back as they are.

    transformers offers no way to pass a function to a template, so a macro of the same name goes before it.
    """
    if "strftime_now" not in template:
        return template
    filters = "".join(f"|replace('{code}', '{text}')" for code, text in PINNED_DATE.items())
    # Its own line, whose end trim_blocks eats: the template proper begins at the start of a line, as it did.
    return f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}\n{template}"


def render(tokenizer: Tokenizer, examples: Sequence[Example], system: str | None) -> list[tuple[str, str]]:
    """Return, for each example, the text before the completion and the text from there on.

    The first is the prompt as a model meets it when it is asked: with the header of the answer. What follows the
    end of the answer's turn (a line break in ChatML) is cut: a model is never asked to say it.

    Raises:
        DataError: The template cannot render the turns, or changes the prompt once there is an answer.
    """
    asked = [_turns(e.prompt, system) for e in examples]
    answered = [[*turns, _turn("assistant", e.completion)] for turns, e in zip(asked, examples, strict=True)]
    before = tokenizer.render(asked, add_generation_prompt=True)
    whole = tokenizer.render(answered, add_generation_prompt=False)
    return [(b, _completion(b, w, tokenizer.eos_token)) for b, w in zip(before, whole, strict=True)]


def _turns(prompt: str, system: str | None) -> list[dict[str, str]]:
    user = [_turn("user", prompt)]
    return user if system is None else [_turn("system", system), *user]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _completion(before: str, whole: str, eos_token: str) -> str:
    if not whole.startswith(before):
        raise DataError(
            "the base's chat template is not prefix-preserving: it writes the prompt differently once an answer "
            f"follows, so no loss mask is exact: …{before[-80:]!r} against …{whole[: len(before)][-80:]!r}",
            hint="set chat = false for the dataset, or give the base another chat_template in the recipe",
        )
    completion = whole[len(before) :]
    ended = completion.rstrip()
    return ended if ended.endswith(eos_token) else completion
