"""The part of `docs/recipe.md` that says what is read of a row, by format."""

from __future__ import annotations

__all__ = ["rows_page"]

INTRODUCTION = """\
### What a row holds

These columns, by their own names; `columns` says where a file has others. Nothing else is read: `dem build` and
`dem data` name once what a dataset has beside them, columns and keys of turns. A column or key that is there twice
is an error.
"""
FORMATS = (
    ("format", "columns", "where they are there"),
    ("`text`", "`text`", ""),
    (
        "`prompt-completion`",
        "`prompt` and `completion`, each a text or a list of turns",
        "`system`¹, `tools`¹, `chat_template_kwargs`¹",
    ),
    ("`messages`", "`messages`, a list of turns", "`system`, `tools` or `functions`, `chat_template_kwargs`"),
    (
        "`alpaca`",
        "`instruction`, `output`",
        "`input`, `system`, `history`, `tools`¹, `chat_template_kwargs`¹",
    ),
    ("`sharegpt`", "`conversations`, a list of turns", "`system`, `tools`, `chat_template_kwargs`"),
)
TEMPLATED = """\
¹ A chat template writes them. Without one they are not read, and named.
"""
BESIDE = (
    ("column", "what it says"),
    (
        "`system`",
        (
            "The row's system prompt, in place of that of the recipe. A row whose turns have a system turn of their "
            "own keeps that one; such rows are counted."
        ),
    ),
    (
        "`history`",
        (
            'Questions and answers that came before, `[["…", "…"], …]`, as LLaMA-Factory has them. Their answers are '
            'trained as well; with `loss = "completion"` the last one alone.'
        ),
    ),
    ("`tools`, `functions`", "JSON schemas of what may be called: a list, or the JSON text of one."),
    (
        "`chat_template_kwargs`",
        'What the row gives the chat template beside turns and tools, such as `{"enable_thinking": false}`.',
    ),
)
TURN = (
    ("key of a turn", "what it says"),
    (
        "`role`, `content`",
        "Who says what; in `sharegpt` also `from` and `value`. OpenAI's older role `function` is `tool`.",
    ),
    (
        "`tool_calls`, `function_call`",
        (
            'What is called, each as `{"function": {"name": "…", "arguments": {…}}}`. Arguments may be a JSON '
            "text, empty, or left out. In `sharegpt` the value of a turn from `function_call` is the JSON text of a "
            "call, or of a list of them."
        ),
    ),
    ("`tool_call_id`, `name`", "Passed on to the chat template."),
    (
        "`reasoning_content`, `reasoning`, `thinking`, `tool_plan`",
        "What the assistant thinks before it answers; in the content, that is what comes before `</think>`.",
    ),
    ("`weight`, `train`, `training`", "0 or false: this answer is not trained, whatever `loss` says."),
)
CLOSING = """\
Of a `completion` that is a list of turns all answers are trained, of such a `prompt` none. In a parquet file a null
inside of an object is no data, since parquet gives every object of a column the keys of all; in JSON it is what it is.

What a chat template leaves out of a turn is an error that names the row: a text, reasoning, words beside a call, what
a call is given, what a tool answers. Counted and said instead is what templates are made to leave out: switches that
they read (`/no_think`), and what was thought before an earlier answer once a later one follows.
"""


def rows_page() -> str:
    """Return that part of the page."""
    parts = (INTRODUCTION, _table(FORMATS), TEMPLATED, _table(BESIDE), _table(TURN), CLOSING)
    return "\n".join(parts)


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    head, *body = rows
    lines = (head, ("---",) * len(head), *body)
    return "".join(
        f"| {' | '.join(cells)} |\n".replace("| --- ", "|---").replace("|--- |", "|---|") for cells in lines
    )
