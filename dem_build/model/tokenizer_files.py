"""A tokenizer's files, such that whoever loads them gets the ids of their `tokenizer.json`.

transformers picks a class by `tokenizer_class` and by the `model_type` of the config.json beside it. Many classes take
no more than vocabulary and merges from tokenizer.json and cut text by a rule of their own. So one folder can give other
ids than its tokenizer.json, and others again once config.json lies beside it, as it does in a published model.
"""

from __future__ import annotations

import functools
import json
import tempfile
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from dem_build.checkpoint.filenames import CONFIG, TOKENIZER_CONFIG, TOKENIZER_JSON
from dem_build.errors import CheckpointError
from dem_build.json_text import parse_json
from dem_build.model.load import quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dem_build.digest import JSON

UNLOADABLE = (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError)
"""What transformers raises of files that are no tokenizer."""

SENTENCEPIECE = "tokenizer.model"

AS_IT_IS = "PreTrainedTokenizerFast"
"""The class that takes all of tokenizer.json; transformers 4 knows it by this name alone."""

# Files and keys that give tokens other properties than tokenizer.json does, or text another cut.
OVERRIDING = ("added_tokens.json", "special_tokens_map.json")
OVERRIDING_KEYS = ("added_tokens_decoder", "fix_mistral_regex", "split_special_tokens")
EOS = "eos_token"
FLAGS = {"add_bos_token": ("bos_token", 0), "add_eos_token": (EOS, -1)}

# What rules of cutting differ in: case, contractions, digits, runs of white space and of signs, line breaks before
# words and digits, composed and decomposed letters, scripts without spaces, signs of several bytes.
TEXTS = (
    "",
    "a",
    "It's 12 o'clock, they'LL've been I'M: don'T we'd 3.14159 20261129 ½ ² ٣٤ 1,000,000",
    " leading  and trailing   ",
    "Q\n\n12+3=\n\n 15\r\n\r\n\tx = 7;\n    return x1 + 22 # ok?!\n\n\n",
    'def f(a_b: int) -> str:\n\tif a_b != 0x1F && !(b||c): { return "<=>"; } // ...---===***',
    "naïve café Ångström nai\u0308ve cafe\u0301 ﬁ Ⅳ \uff21\uff22\u00a0x\u200bz\u3000",
    "日本語のテキスト。中文、測試 한국어 हिन्दी नमस्ते العربية שלום ไทย Ελληνικά Русский ИИ",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ∑∫√≠ €$£¥ «»„“ \x07 \ufffd ▁under ▁ ĠG Ċ",
    "http://example.org/a/b?c=d&e=%20#f user@host.com CamelCaseWords SHOUTING snake_case kebab-case",
)
WORDS = 64  # tokens of the vocabulary that are tried in one text
FEW = len(TEXTS)  # texts that are also tried with what a tokenizer adds to them
SHOWN = 40  # characters of a text in a message


@dataclass(frozen=True)
class _Reader:
    """A way to load a folder: what it gives, or why it gives nothing.

    Attributes:
        tokenizer: As transformers loads it; None where it does not.
    """

    tokenizer: Any
    fault: str = ""


class _Reference:
    """What tokenizer.json says, and what differs from it."""

    def __init__(self, raw: Tokenizer) -> None:
        self.raw = raw

    @functools.cached_property
    def texts(self) -> list[str]:
        """Texts to try."""
        return probe(self.raw)

    def faults(self, alone: _Reader, beside: _Reader) -> list[str]:
        """How each of two readers differs from tokenizer.json; empty texts where they do not."""
        first = self._fault(alone)
        both = alone.tokenizer is not None and beside.tokenizer is not None
        same = both and _is(alone.tokenizer, beside.tokenizer)
        return [first, first if same else self._fault(beside)]

    def _fault(self, reader: _Reader) -> str:
        if reader.tokenizer is None:
            return f"it cannot be loaded: {reader.fault}"
        if _is(reader.tokenizer, self.raw):
            return ""
        if (text := differing(reader.tokenizer, self.raw, self.texts)) is None:
            return ""
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
        return f"its {type(reader.tokenizer).__name__} cuts {shown!r} otherwise"


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, as transformers loads it.

    Raises:
        Exception: One of `UNLOADABLE`: the folder's files are no tokenizer.
    """
    with quiet():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def settle(folder: Path, config: Mapping[str, JSON], where: str) -> list[str]:
    """Make sure that a folder gives the ids of its tokenizer.json, with the model's config.json beside it and without.

    Where they differ, the folder's files are made to name the class that takes tokenizer.json as it is. A folder
    without a tokenizer.json of which transformers makes one tokenizer with config.json and another without gets the
    first one's, or of a SentencePiece model that of the class that the files name.

    Args:
        folder: A tokenizer's files; changed where they must be, and left alone byte for byte otherwise.
        config: What config.json says in the model that will be published.
        where: What messages call the model.

    Returns:
        What the user should know of it.

    Raises:
        CheckpointError: The files are no tokenizer, or no class of transformers gives these ids.
    """
    try:
        _read(folder / TOKENIZER_CONFIG)
    except ValueError as error:  # also of what is no UTF-8
        what = f"the tokenizer cannot be loaded: {TOKENIZER_CONFIG} is no JSON: {error}"
        raise CheckpointError(what, where=where) from error
    made = "" if (folder / TOKENIZER_JSON).exists() else _made(folder, config, where)
    if not (folder / TOKENIZER_JSON).exists():
        return []
    # tokenizer.json by the library that defines it, without what it says of batches.
    try:
        raw = Tokenizer.from_file(str(folder / TOKENIZER_JSON))
    except Exception as error:  # the Rust library raises plain Exceptions
        reason = next(iter(str(error).splitlines()), "")
        raise CheckpointError(f"the tokenizer cannot be loaded: {reason}", where=where) from error
    raw.no_truncation()
    raw.no_padding()
    reference = _Reference(raw)
    alone, beside = _readers(folder, config)
    faults = reference.faults(alone, beside)
    told = [*([made] if made else []), *_contradicted(folder, raw)]
    if not any(faults):
        return told
    loaded = beside.tokenizer or alone.tokenizer
    named = _read(folder / TOKENIZER_CONFIG).get("tokenizer_class")
    word = f"tokenizer_class {named}" if named else f"the model_type {config.get('model_type')}"
    mended = [""]
    # The gentler mending first: files that only override may be what the user meant.
    for without_overriding in (False, True):
        _name_class(folder, raw, loaded, AS_IT_IS, without_overriding=without_overriding)
        mended = reference.faults(*_readers(folder, config))
        if not any(mended):
            how = f"by {word} transformers takes tokenizer.json for another: {next(filter(None, faults))}"
            return [*told, f"{how}; the tokenizer is tokenizer.json's, and its files now name {AS_IT_IS}"]
    if beside.tokenizer is not None and _composes_alone(folder, reference, beside.tokenizer, config):
        kind = f"transformers' {type(beside.tokenizer).__name__}, its tokenizer of every {config.get('model_type')}"
        but = f"{kind}, makes one letter of a letter and the accent after it"
        return [*told, f"the tokens are those of tokenizer.json, but that {but}"]
    what = (
        f"the tokens of tokenizer.json cannot be had from transformers for the model_type {config.get('model_type')}: "
        f"{next(filter(None, mended))}, whatever class the files name"
    )
    hint = (
        "if transformers' tokens are meant, save them beside the weights: "
        "AutoTokenizer.from_pretrained(BASE).save_pretrained(FOLDER)"
    )
    raise CheckpointError(what, where=where, hint=hint)


def probe(tokenizer: Any) -> list[str]:
    """Texts that tell tokenizers apart: TEXTS, each added token between words, and every word of the vocabulary."""
    added = [t.content for t in _added(tokenizer)]
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    ids = sorted(backend.get_vocab().values()) if isinstance(backend, Tokenizer) else []
    decoded: list[str] = backend.decode_batch([[i] for i in ids], skip_special_tokens=True) if ids else []
    plain = [text for text in decoded if text]
    vocabulary = [" ".join(plain[i : i + WORDS]) for i in range(0, len(plain), WORDS)]
    return [*TEXTS, *(f"a{t}b {t} 12{t}{t}\n" for t in added), "".join(added), *vocabulary]


def same_ids(one: Any, other: Any, texts: Sequence[str]) -> bool:
    """Whether two tokenizers give the same ids of each text, with what they add to a text and without."""
    return differing(one, other, texts) is None


def write_json(path: Path, document: JSON) -> None:
    """Write JSON as transformers writes a tokenizer's."""
    path.write_text(
        json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _made(folder: Path, config: Mapping[str, JSON], where: str) -> str:
    """Write a tokenizer.json where transformers makes one tokenizer of the files with config.json and another without.

    Returns:
        What the user should know of it, or nothing.
    """
    alone, beside = _readers(folder, config)
    # Of a SentencePiece model what the files' own tokenizer_class makes of it is right. Where config.json's model_type
    # overrules that class, transformers loses what the class knows of such a model: that a text begins with a space.
    said = str(_read(folder / TOKENIZER_CONFIG).get("tokenizer_class")).removesuffix("Fast")
    named = (folder / SENTENCEPIECE).exists() and type(alone.tokenizer).__name__.removesuffix("Fast") == said
    right, other = (alone, beside) if named else (beside, alone)
    if right.tokenizer is None:
        raise _unreadable(folder, right.fault, where)
    if other.tokenizer is not None and same_ids(other.tokenizer, right.tokenizer, probe(right.tokenizer)):
        return ""
    backend = getattr(right.tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        what = (
            "transformers makes one tokenizer of the files with config.json beside them, and another without"
        )
        raise CheckpointError(what, where=where, hint="take a base that has a tokenizer.json")
    backend.save(str(folder / TOKENIZER_JSON))
    if named:
        return (
            f"transformers reads {SENTENCEPIECE} by config.json's model_type otherwise than the tokenizer_class that "
            "the files name: tokenizer.json is what comes of that class"
        )
    return "transformers reads the tokenizer's files by config.json's model_type: tokenizer.json is what comes of them"


def _unreadable(folder: Path, fault: str, where: str) -> CheckpointError:
    if (folder / SENTENCEPIECE).exists() and find_spec("sentencepiece") is None:
        # transformers then takes the file for one of tiktoken's, and asks for that package.
        what = f"the tokenizer is {SENTENCEPIECE} alone, to read which takes the package sentencepiece"
        return CheckpointError(
            what, where=where, hint="pip install sentencepiece, or take a base with a tokenizer.json"
        )
    return CheckpointError(f"the tokenizer cannot be loaded: {fault}", where=where)


def _readers(folder: Path, config: Mapping[str, JSON]) -> tuple[_Reader, _Reader]:
    """Load a folder as dem does, without config.json, and as whoever loads the published model does."""
    with tempfile.TemporaryDirectory(prefix="dem-tokenizer-") as name:
        for file in folder.iterdir():
            (Path(name) / file.name).symlink_to(file.resolve())
        (Path(name) / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        return _reader(folder), _reader(Path(name))


def _reader(folder: Path) -> _Reader:
    try:
        return _Reader(load_tokenizer(folder))
    except Exception as error:  # noqa: BLE001  the Rust library raises plain Exceptions
        return _Reader(None, next(iter(str(error).splitlines()), type(error).__name__))


def _added(tokenizer: Any) -> Iterable[Any]:
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.get_added_tokens_decoder().values()
    added: Iterable[Any] = tokenizer.added_tokens_decoder.values()
    return added


def _is(one: Any, other: Any) -> bool:
    """Whether two tokenizers have the same rules and words, so that no text need be tried."""
    backends = [getattr(tokenizer, "backend_tokenizer", tokenizer) for tokenizer in (one, other)]
    if not all(isinstance(backend, Tokenizer) for backend in backends):
        return False
    return bool(backends[0].to_str() == backends[1].to_str())


def differing(one: Any, other: Any, texts: Sequence[str]) -> str | None:
    """A text of which two tokenizers give other ids, None where there is none.

    Texts that hold a token which one of them alone keeps whole are left out: tokenizer_config.json may name special
    tokens that tokenizer.json does not, and chat templates write them.
    """
    names, others = ({t.content for t in _added(tokenizer)} for tokenizer in (one, other))
    texts = [text for text in texts if not any(token in text for token in names ^ others if token)]
    for tried, adds in ((texts, False), (texts[:FEW], True)):
        for text, ids, wanted in zip(tried, _ids(one, tried, adds), _ids(other, tried, adds), strict=True):
            if ids != wanted:
                return text
    return None


def _ids(tokenizer: Any, texts: Sequence[str], adds: bool) -> list[list[int] | None]:
    """The ids of each text, None of one that the tokenizer has no tokens for."""
    try:
        if isinstance(tokenizer, Tokenizer):
            return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=adds)]
        wanted = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        return list(tokenizer(list(texts), add_special_tokens=adds, **wanted)["input_ids"])
    except Exception:  # noqa: BLE001  plain Exceptions, as above
        return [None] if len(texts) == 1 else [_ids(tokenizer, [text], adds)[0] for text in texts]


def _name_class(
    folder: Path, raw: Tokenizer, loaded: Any, kind: str, *, without_overriding: bool = False
) -> None:
    """Let the files name a class, and the special tokens that `loaded` has without their saying so."""
    config = _read(folder / TOKENIZER_CONFIG)
    whole = {t.content for t in _added(raw)}
    said = {} if loaded is None else loaded.special_tokens_map
    special = {k: t for k, t in said.items() if t in whole and _content(config.get(k)) != t}
    if _content(config.get(EOS)) is None and raw.token_to_id(str(said.get(EOS))) is not None:
        special[EOS] = said[EOS]  # also where tokenizer.json does not keep it whole: rows are ended with it
    unknown = {k: None for k, t in said.items() if raw.token_to_id(t) is None and k not in config}
    dropped = ["auto_map", *(OVERRIDING_KEYS if without_overriding else [])]
    kept = {key: value for key, value in config.items() if key not in dropped}
    write_json(folder / TOKENIZER_CONFIG, kept | unknown | special | {"tokenizer_class": kind})
    if without_overriding:
        for name in OVERRIDING:
            (folder / name).unlink(missing_ok=True)


def _composes_alone(folder: Path, reference: _Reference, loaded: Any, config: Mapping[str, JSON]) -> bool:
    """Let the files name the class that transformers takes anyway; return whether it only composes letters first.

    Then training and the published model have that one.
    """
    _name_class(folder, reference.raw, loaded, type(loaded).__name__)
    alone, beside = _readers(folder, config)
    if alone.tokenizer is None or not same_ids(alone.tokenizer, beside.tokenizer, reference.texts):
        return False
    composed = [text for text in reference.texts if unicodedata.is_normalized("NFC", text)]
    return same_ids(alone.tokenizer, reference.raw, composed)


def _contradicted(folder: Path, raw: Tokenizer) -> list[str]:
    """What to say of `add_bos_token` and `add_eos_token` that tokenizer.json does not bear out."""
    config = _read(folder / TOKENIZER_CONFIG)
    (ids,) = _ids(raw, ["a"], adds=True)
    if ids is None:  # it has no tokens for that
        return []
    told = []
    for flag, (name, place) in FLAGS.items():
        token = _content(config.get(name))
        if not isinstance(config.get(flag), bool) or token is None:
            continue
        adds = bool(ids) and ids[place] == raw.token_to_id(token)
        if adds != config[flag]:
            does = "adds it all the same" if adds else "adds none"
            told.append(
                f"tokenizer_config.json says {flag} = {json.dumps(config[flag])}, and tokenizer.json {does}: "
                "tokenizer.json counts, as in transformers 5"
            )
    return told


def _content(token: JSON) -> str | None:
    """The text of a special token, which is text or a table of its properties; None where there is none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    document = parse_json(path.read_text(encoding="utf-8"))
    return document if isinstance(document, dict) else {}
