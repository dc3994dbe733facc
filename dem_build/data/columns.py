"""The columns of each format of rows. The rules of recipes read them too, and load nothing that reads rows."""

from __future__ import annotations

REQUIRED: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
}
"""Format → the columns that every row must have, by their default names."""

OPTIONAL: dict[str, tuple[str, ...]] = {
    "text": (),
    "prompt-completion": ("system", "tools", "chat_template_kwargs"),
    "messages": ("system", "functions", "tools", "chat_template_kwargs"),
    "alpaca": ("input", "system", "history", "tools", "chat_template_kwargs"),
    "sharegpt": ("system", "tools", "chat_template_kwargs"),
}
"""Format → the columns that are read where they are there."""
