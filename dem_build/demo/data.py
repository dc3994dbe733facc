"""Make the demo's datasets, from two packages on PyPI: `python -m dem_build.demo.data FOLDER`.

data/chat.jsonl       small talk: a message and the answer to it, each from another conversation (chitchat-dataset)
data/family.jsonl     who is who in a family, answered in one word (reasoning-gym, family_relationships)
data/reverse.jsonl    a list of words, written backwards (reasoning-gym, word_sequence_reversal)
tasks/family_words.jsonl    other families, with four answers to choose from: the accuracy task

`make.py` pins the packages' versions, and so each file comes out the same, byte for byte, on every machine.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# reasoning-gym makes example i of seed s with the random seed s + i, so seeds must lie further apart than sizes.
SEEDS = {"family": 1_000_000, "reverse": 2_000_000, "task": 3_000_000}
FAMILY = {"max_family_size": 6}
REVERSE = {"max_words": 6}
ROWS = {"chat": 240, "family": 200, "reverse": 200}
ITEMS = 64

WORD = re.compile(r"[A-Za-z][a-z']*[,.!?]?|I'[a-z]+[,.!?]?|\d{1,2}[,.!?]?")
UNWANTED = re.compile(
    r"\b(sex\w*|fuck\w*|shit\w*|damn|hell|ass|bitch\w*|crap|suck\w*|stupid|dumb|idiot|hate|kill\w*|die|drunk|gay|rape\w*"
    r"|drugs?|snap(chat)?|insta(gram)?|facebook|discord|email|phone|asdf\w*|byu|chit|challenge|survey|bot|robot)\b",
    re.IGNORECASE,
)


def main(folder: Path) -> None:
    """Write every file."""
    family = list(puzzles("family_relationships", SEEDS["family"], ROWS["family"], **FAMILY))
    write(folder / "data/chat.jsonl", small_talk(ROWS["chat"]))
    write(folder / "data/family.jsonl", family)
    reverse = puzzles("word_sequence_reversal", SEEDS["reverse"], ROWS["reverse"], **REVERSE)
    write(folder / "data/reverse.jsonl", reverse)
    write(folder / "tasks/family_words.jsonl", choices(ITEMS, seen={row["prompt"] for row in family}))


def puzzles(name: str, seed: int, rows: int, **config: int) -> Iterator[dict[str, str]]:
    """Yield `rows` puzzles as prompt and completion, no prompt twice."""
    seen: set[str] = set()
    for example in _reasoning_gym().create_dataset(name, size=2 * rows, seed=seed, **config):
        prompt = example["question"].strip()
        if prompt not in seen:
            seen.add(prompt)
            yield {"prompt": prompt, "completion": str(example["answer"])}
        if len(seen) == rows:
            return


def _reasoning_gym() -> Any:
    """reasoning-gym's factory with the two kinds of puzzle, and without what the hundred others import (340 MB).

    Its packages are stood in for by empty ones at the same places, whose own modules import as ever.
    """
    for name in ("reasoning_gym", "reasoning_gym.graphs", "reasoning_gym.algorithmic"):
        if name in sys.modules:
            continue
        parent, _, child = name.rpartition(".")
        if parent:
            places = [f"{place}/{child}" for place in sys.modules[parent].__path__]
        else:
            spec = find_spec(name)
            places = list(spec.submodule_search_locations or ()) if spec else []
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = places
    for module in ("graphs.family_relationships", "algorithmic.word_sequence_reversal"):
        import_module(f"reasoning_gym.{module}")
    return import_module("reasoning_gym.factory")


def choices(items: int, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Yield questions on families that `seen` lacks, each with the answer among three wrong ones, in any order."""
    rng = random.Random(SEEDS["task"])  # noqa: S311  it draws examples
    made = puzzles("family_relationships", SEEDS["task"], 2 * items, **FAMILY)
    fresh = [row for row in made if row["prompt"] not in seen]
    relations = sorted({row["completion"] for row in fresh})
    for row in fresh[:items]:
        wrong = rng.sample([r for r in relations if r != row["completion"]], 3)
        options = rng.sample([row["completion"], *wrong], 4)
        yield {"question": row["prompt"], "choices": options, "answer": options.index(row["completion"])}


def small_talk(rows: int) -> list[dict[str, str]]:
    """Return a message and its answer from each of `rows` conversations.

    One pair a conversation: two would share sentences, and the held-out rows would be half known.
    """
    rng = random.Random(0)  # noqa: S311  as above
    talks = sorted(import_module("chitchat_dataset").Dataset().items())
    rng.shuffle(talks)
    found: dict[str, dict[str, str]] = {}
    for _, talk in talks:
        pairs = list(usable_pairs(talk["messages"]))
        if pairs and len(found) < rows:
            prompt, completion = rng.choice(pairs)
            found.setdefault(prompt.lower(), {"prompt": prompt, "completion": completion})
    return list(found.values())


def usable_pairs(messages: list[list[dict[str, str]]]) -> Iterator[tuple[str, str]]:
    """Yield the neighbouring messages of one conversation, after its greetings, that are both usable."""
    texts = [" ".join(" ".join(part["text"] for part in message).split()) for message in messages][2:]
    for prompt, completion in itertools.pairwise(texts):
        if usable(prompt) and usable(completion) and prompt != completion:
            yield prompt, completion


def usable(text: str) -> bool:
    """Whether a message is five to twenty-five plain words, and fit to be shown."""
    words = text.split()
    plain = all(WORD.fullmatch(word) for word in words)
    return 5 <= len(words) <= 25 and plain and not UNWANTED.search(text)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON document a line; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
