"""Keys: what they are made of, and that an upgrade of dem does not change them by accident.

tests/golden/KIND.json holds a preimage and its key for each kind. A difference means that a user's cache no longer
matches. Where that is meant (the kind's `version` was raised, or a kind is new), write them again and say so in the
changelog: `python tests/test_keys.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dem_build import action, actions, digest
from dem_build.action import Action, Input, Kind, SourceFile, key_of
from dem_build.actions import KINDS, SPECS
from dem_build.digest import Blob, Output

GOLDEN = Path(__file__).parent / "golden"


def hexes(letter: str) -> str:
    """A digest that is easy to recognise in a golden file."""
    return letter * 64


@dataclass(frozen=True)
class Group:
    """Inputs that belong together, and what is said of them alone."""

    name: str
    params: dict
    inputs: tuple[Input, ...]


def taken(of: str, name: str, omega: float | None = None) -> Input[Blob]:
    return Input(of, Blob(name, 0), omega)


def preimage(
    kind: str | Kind, params: dict, given: list[Input | Group], sources: list = (), salt: str | None = None
) -> dict:
    groups = [g for g in given if isinstance(g, Group)]
    inputs = [i for i in given if isinstance(i, Input)]
    inputs += [replace(i, group=g.name) for g in groups for i in g.inputs]
    spec = KINDS[kind] if isinstance(kind, str) else kind
    said = {g.name: g.params for g in groups}
    return action.preimage(
        Action("any", spec, params, sources=tuple(sources), salt=salt, groups=said), inputs
    )


def measured(document: dict) -> str | None:
    return KINDS[document["kind"]].measured(document)


MODEL = {"weights": "1", "config": "2", "tokenizer": "3", "generation_config": "4"}
BASE = [taken(f"base/{part}", hexes(x)) for part, x in MODEL.items()]
COMPOSED = [taken(f"model/{part}", hexes(x)) for part, x in MODEL.items()]
OF_MATH = (
    taken("delta", hexes("7")),
    taken("data/train", hexes("5")),
    taken("data/validation", hexes("6")),
)

# What each kind is given: parameters, inputs, sources. Every parameter has a value, the optional ones too.
GIVEN = {
    "import": (
        {"source": "gguf", "dtype": "bfloat16"},
        [],
        [SourceFile("gguf", hexes("a"), Path("model.gguf"))],
    ),
    "prepare": (
        {
            "format": "prompt-completion",
            "columns": {"prompt": "question", "completion": "answer"},
            "chat": "auto",
            "system": "You are a careful tutor.",
            "loss": "completion",
            "max_length": 1024,
            "on_overflow": "drop",
            "validation": 0.05,
            "test": 0.05,
            "max_samples": 20000,
        },
        [taken("base/tokenizer", hexes("3"))],
        [
            SourceFile("jsonl", hexes("b"), Path("data/1.jsonl")),
            SourceFile("jsonl", hexes("a"), Path("data/2.jsonl")),
        ],
    ),
    "mix": (
        {"epochs": 2.0, "sequences": 640, "pack": 1024},
        [
            Group("math", {"share": 0.5}, (taken("data/train", hexes("5")),)),
            Group("chat", {"share": 0.25}, (taken("data/train", hexes("6")),)),
        ],
        [],
    ),
    "finetune": (
        {
            "method": "full",
            "optim": "adamw_torch_fused",
            "adam_beta1": 0.9,
            "adam_beta2": 0.999,
            "adam_epsilon": 1e-8,
            "learning_rate": 2e-5,
            "num_train_epochs": 1.0,
            "max_steps": 100,
            "global_batch_size": 32,
            "bf16": True,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "vector_dtype": "bfloat16",
            "seed": 42,
        },
        [*BASE[:2], taken("data/train", hexes("5"))],
        [],
    ),
    "extract": (
        {"source": "checkpoint", "vector_dtype": "bfloat16"},
        BASE[:2],
        [
            SourceFile("config.json", hexes("a"), Path("tuned/config.json")),
            SourceFile("model.safetensors", hexes("b"), Path("tuned/model.safetensors")),
        ],
    ),
    "tune": (
        {
            "search": "gradient",
            "objective": "gain",
            "granularity": "model",
            "max_samples": 128,
            "bounds": [0.0, 1.5],
            "dtype": "bfloat16",
        },
        [
            *BASE[:2],
            Group(
                "math",
                {"importance": 2.0, "omega": None},
                OF_MATH,
            ),
            Group("code", {"omega": 0.3}, (taken("delta", hexes("8")),)),
            Group("chat", {"limit": 0.01}, (taken("data/rows", hexes("9")),)),
        ],
        [],
    ),
    "compose": (
        {"method": "dem", "dtype": "bfloat16"},
        [*BASE, taken("delta", hexes("8"), 0.5), taken("delta", hexes("7"), 1.0)],
        [],
    ),
    "match": (
        {"dtype": "bfloat16", "rows": 32, "ridge": 2.0, "prior": "fit"},
        [
            *BASE,
            Group("math", {"importance": 1.0}, (OF_MATH[0], taken("data/sample", hexes("5")))),
            Group("code", {"importance": 2.0}, (taken("delta", hexes("8")),)),
        ],
        [],
    ),
    "gram": (
        {"rows": 32, "dtype": "bfloat16"},
        [*BASE[:2], taken("delta", hexes("7")), taken("data/sample", hexes("5"))],
        [],
    ),
    "saliency": (
        {"rows": 32, "dtype": "bfloat16"},
        [*BASE[:2], taken("delta", hexes("7")), taken("data/sample", hexes("5"))],
        [],
    ),
    "regmean": (
        {"dtype": "bfloat16", "ridge": 2.0},
        [
            *BASE,
            Group("math", {"importance": 1.0}, (taken("delta", hexes("7")), taken("gram", hexes("5")))),
            Group("chat", {"importance": 0.5}, (taken("delta", hexes("8")), taken("gram", hexes("6")))),
        ],
        [],
    ),
    "weigh": (
        {
            "dtype": "bfloat16",
            "rows": 32,
            "ridge": 2.0,
            "prior": "fit",
            "objective": "gain",
            "max_samples": 128,
        },
        [
            *BASE,
            Group(
                "math",
                {"importance": None, "weight": 1.0},
                (*OF_MATH, taken("data/sample", hexes("5"))),
            ),
            Group("code", {"importance": 2.0}, (taken("delta", hexes("8")),)),
            Group("chat", {"limit": 0.01}, (taken("data/rows", hexes("9")),)),
        ],
        [],
    ),
    "choose": (
        {"objective": "gain"},
        [
            *(
                replace(part, of=part.of.replace("model", name))
                for name in ("sum", "match")
                for part in COMPOSED
            ),
            taken("trace", hexes("d")),
            Group(
                "math",
                {"importance": 1.0},
                (OF_MATH[0], OF_MATH[2], taken("loss/base", hexes("a")), taken("loss/sum", hexes("b"))),
            ),
            Group("chat", {"limit": 0.01}, (taken("data/rows", hexes("9")), taken("loss/sum", hexes("c")))),
            Group("math/train", {}, (OF_MATH[1],)),
        ],
        [],
    ),
    "analysis": (
        {},
        [BASE[0], taken("delta", hexes("8")), taken("delta", hexes("7"))],
        [],
    ),
    "response": (
        {"omegas": [0.0, 0.5, 1.0], "max_samples": 128, "dtype": "bfloat16"},
        [
            *BASE[:2],
            taken("omega", hexes("e")),
            Group(
                "math",
                {},
                OF_MATH,
            ),
            Group("code", {"omega": 0.3}, (taken("delta", hexes("8")),)),
        ],
        [],
    ),
    "ladder": (
        {
            "objective": "gain",
            "max_samples": 128,
            "bounds": [0.0, 1.5],
            "test_samples": 256,
            "dtype": "bfloat16",
        },
        [
            *BASE[:2],
            taken("omega", hexes("e")),
            taken("passes", hexes("f")),
            Group(
                "math",
                {"importance": 2.0, "omega": None},
                OF_MATH,
            ),
            Group("math/test", {}, (taken("delta", hexes("7")), taken("data/test", hexes("9")))),
            Group("code", {"omega": 0.3}, (taken("delta", hexes("8")),)),
        ],
        [],
    ),
    "tsne": (
        {"max_samples": 128, "dtype": "bfloat16"},
        [*COMPOSED[:2], Group("math", {}, (taken("data/validation", hexes("6")),))],
        [],
    ),
    "loss": (
        {"dtype": "bfloat16"},
        [*COMPOSED[:2], taken("data/rows", hexes("6"))],
        [],
    ),
    "sample": (
        {"prompts": 5, "max_new_tokens": 64, "dtype": "bfloat16"},
        [*COMPOSED, taken("data/rows", hexes("6"))],
        [],
    ),
    "score": (
        {"max_samples": 32, "sample": 64, "vectors": {hexes("7"): hexes("5")}},
        [
            *COMPOSED[:2],
            *(replace(part, of=part.of.replace("base", "origin")) for part in BASE[:2]),
            Group("new rows", {}, (taken("data/train", hexes("8")),)),
            Group("math", {}, OF_MATH[1:]),
            Group("chat", {}, (taken("data/rows", hexes("9")),)),
        ],
        [],
    ),
    "task": (
        {
            "task": "arc_easy",
            "num_fewshot": 4,
            "limit": 200,
            "apply_chat_template": True,
            "dtype": "bfloat16",
            "lm_eval": "0.4.13",
            "dataset_revision": "0123456789abcdef0123456789abcdef01234567",
        },
        COMPOSED,
        [SourceFile("arc_easy.yaml", hexes("c"), Path("tasks/arc_easy.yaml"))],
    ),
}


def golden(kind: str) -> dict:
    document = preimage(kind, *GIVEN[kind])
    return {"key": key_of(document), "preimage": document}


def compose_key(terms: list[tuple[str, float]]) -> str:
    inputs = [*BASE, *(taken("delta", d, w) for d, w in terms)]
    return key_of(preimage("compose", {"method": "dem", "dtype": "bfloat16"}, inputs))


def repeating(given: list[Input | Group]) -> list[Input | Group]:
    """The same inputs, each of rows of which several have one prompt."""

    def of(found: Input[Blob]) -> Input[Output]:
        return found.moved(Output(found.at.digest, 0, repeats=True))

    return [replace(i, inputs=tuple(map(of, i.inputs))) if isinstance(i, Group) else of(i) for i in given]


@pytest.mark.parametrize("kind", sorted(GIVEN))
def test_rows_of_which_several_have_one_prompt_have_other_keys_where_errors_are_of_them(kind):
    params, inputs, sources = GIVEN[kind]
    document = preimage(kind, params, repeating(inputs), sources)
    taken = [*document["inputs"], *(i for group in document.get("groups", ()) for i in group["inputs"])]
    marked = {i["of"] for i in taken if i.pop("unit", None) == "prompt"}
    assert marked == KINDS[kind].sampled & {i["of"] for i in taken}
    assert document == golden(kind)["preimage"]


def test_errors_are_of_the_rows_that_judge_and_trainings_choose_a_checkpoint_by_no_error():
    by_kind = {name: {*kind.sampled} for name, kind in KINDS.items() if kind.sampled}
    judging = {"data/validation", "data/rows"}
    assert by_kind == {
        **dict.fromkeys(("tune", "weigh", "choose", "response"), judging),
        "ladder": judging | {"data/test"},
        "score": judging | {"data/train"},
        "loss": {"data/rows"},
    }


def test_the_name_of_a_group_is_in_no_key():
    params, inputs, sources = GIVEN["tune"]
    renamed = [replace(i, name=f"other-{i.name}") if isinstance(i, Group) else i for i in inputs]
    assert key_of(preimage("tune", params, renamed, sources)) == golden("tune")["key"]


def test_what_is_said_of_a_group_is_said_of_it_alone():
    """An importance that moves from one dataset to another is another search."""
    one = [Group("a", {"importance": 2.0}, (taken("delta", hexes("7")),))]
    one += [Group("b", {"importance": 1.0}, (taken("delta", hexes("8")),))]
    other = [replace(one[0], params={"importance": 1.0}), replace(one[1], params={"importance": 2.0})]
    params = GIVEN["tune"][0]
    assert preimage("tune", params, one) != preimage("tune", params, other)


def test_searches_of_one_base_can_use_what_each_other_measured():
    params, inputs, sources = GIVEN["tune"]
    golden_one = measured(preimage("tune", params, inputs, sources))
    important = [
        replace(i, params=dict.fromkeys(i.params, 0.7)) if isinstance(i, Group) else i for i in inputs
    ]
    other = preimage("tune", params | {"objective": "worst", "bounds": [0.0, 1.0]}, important, sources)
    assert measured(other) == golden_one
    fewer = [i for i in inputs if not isinstance(i, Group)]
    assert measured(preimage("tune", params, [*fewer, important[-1]])) == golden_one
    assert measured(preimage("tune", params, inputs[1:])) != golden_one
    assert measured(preimage("tune", params, inputs, sources, salt="again")) != golden_one
    assert measured(golden("compose")["preimage"]) is None


def test_what_an_earlier_version_measured_the_same_way_is_still_of_use():
    since = KINDS["tune"].measured_since
    later = replace(KINDS["tune"], version=since + 1)
    document = preimage(later, *GIVEN["tune"])
    assert later.measured({**document, "version": since}) == later.measured(document)
    assert later.measured({**document, "version": since - 1}) is None
    assert later.measured({**document, "version": since + 2}) is None


@pytest.mark.parametrize("wrong", [{"kind": "loss"}, {"version": None}, {"version": "6"}, {"kind": None}])
def test_a_preimage_of_another_shape_measured_nothing(wrong):
    """A cache may come from anybody."""
    assert KINDS["tune"].measured({**preimage("tune", *GIVEN["tune"]), **wrong}) is None


def test_every_kind_has_a_golden_preimage_and_nothing_else_has():
    assert {p.stem for p in GOLDEN.glob("*.json")} == set(KINDS)


def test_every_folder_of_an_action_is_listed_and_keeps_its_name():
    folders = {path.parent.name for path in Path(actions.__file__).parent.glob("*/spec.py")}
    assert {spec.__name__ for spec in SPECS} == {f"dem_build.actions.{name}.spec" for name in folders}
    assert {getattr(actions, name).__name__ for name in folders} == {
        f"dem_build.actions.{n}" for n in folders
    }


@pytest.mark.parametrize("kind", KINDS)
def test_preimage_and_key_are_the_committed_ones(kind):
    assert golden(kind) == json.loads((GOLDEN / f"{kind}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_preimage_has_every_parameter_of_its_kind(kind):
    params = json.loads((GOLDEN / f"{kind}.json").read_text(encoding="utf-8"))["preimage"]["params"]
    assert set(params) == set(KINDS[kind].params)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_order_of_parameters_inputs_and_sources_does_not_matter(kind, data):
    params, inputs, sources = GIVEN[kind]
    shuffled = preimage(
        kind,
        dict(data.draw(st.permutations(list(params.items())))),
        data.draw(st.permutations(inputs)),
        data.draw(st.permutations(sources)),
    )
    assert key_of(shuffled) == golden(kind)["key"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_parameter_changes_the_key(kind):
    params, inputs, sources = GIVEN[kind]
    keys = {key_of(preimage(kind, params | {name: "other"}, inputs, sources)) for name in params}
    assert len(keys | {golden(kind)["key"]}) == len(params) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_source_lies_does_not_reach_the_key(kind):
    params, inputs, sources = GIVEN[kind]
    moved = [replace(s, path=Path("/elsewhere") / s.path) for s in sources]
    assert preimage(kind, params, inputs, moved) == golden(kind)["preimage"]


def test_the_same_file_in_another_part_is_another_key():
    given_, swapped = BASE[:2], [replace(BASE[0], of=BASE[1].of), replace(BASE[1], of=BASE[0].of)]
    assert preimage("loss", {"dtype": "x"}, given_) != preimage("loss", {"dtype": "x"}, swapped)


def test_a_salt_is_another_key():
    assert preimage("import", *GIVEN["import"][:2], salt="again") != preimage("import", *GIVEN["import"][:2])


omegas = st.floats(-2, 2, allow_subnormal=False)
terms = st.lists(st.tuples(st.sampled_from([hexes(c) for c in "def"]), omegas), max_size=8)


@given(terms, st.randoms(use_true_random=False))
def test_order_of_vectors_does_not_matter_even_where_float_sums_would_differ(given_terms, random):
    shuffled = random.sample(given_terms, len(given_terms))
    assert compose_key(shuffled) == compose_key(given_terms)


def test_omegas_of_equal_vectors_are_summed():
    assert compose_key([(hexes("d"), 0.25), (hexes("e"), 1.0), (hexes("d"), 0.5)]) == compose_key(
        [(hexes("d"), 0.75), (hexes("e"), 1.0)]
    )


def test_a_sum_of_omegas_is_rounded_once():
    # Left to right, ten times 0.1 is 0.9999999999999999, and which Python runs would decide.
    assert compose_key([(hexes("d"), 0.1)] * 10) == compose_key([(hexes("d"), 1.0)])


def test_an_input_of_a_group_that_the_action_has_not_is_a_mistake():
    """It would be in no key, and no step would be given it."""
    search = Action("any", KINDS["tune"], GIVEN["tune"][0], groups={"math": {}})
    inputs = [replace(i, group="math") for i in OF_MATH]
    assert action.preimage(search, [*BASE[:2], *inputs])
    with pytest.raises(ValueError, match="groups that it has not: \\['code'\\]"):
        action.preimage(search, [*BASE[:2], *inputs, replace(OF_MATH[1], group="code")])


@given(terms)
def test_vectors_with_omega_zero_are_left_out(given_terms):
    assert compose_key([*given_terms, (hexes("0"), 0.0), (hexes("1"), -0.0)]) == compose_key(given_terms)


def test_omegas_that_cancel_leave_the_vector_out():
    assert compose_key([(hexes("d"), 0.5), (hexes("d"), -0.5)]) == compose_key([])


def test_an_integer_and_the_same_float_are_one_key():
    params, inputs, sources = GIVEN["finetune"]
    as_integer = preimage("finetune", params | {"num_train_epochs": 1}, inputs, sources)
    assert key_of(as_integer) == golden("finetune")["key"]
    assert compose_key([(hexes("d"), 1)]) == compose_key([(hexes("d"), 1.0)])


@pytest.mark.parametrize("kind", KINDS)
def test_an_optional_parameter_without_a_value_is_left_out(kind):
    params, inputs, sources = GIVEN[kind]
    given_ = {n: v for n, v in params.items() if n not in KINDS[kind].optional}
    as_none = given_ | dict.fromkeys(KINDS[kind].optional)
    assert preimage(kind, as_none, inputs, sources) == preimage(kind, given_, inputs, sources)


def test_a_parameter_added_later_leaves_keys_alone_at_its_neutral_value():
    upgraded = replace(KINDS["loss"], added=MappingProxyType({"per_document": False}))
    params, inputs, sources = GIVEN["loss"]
    committed = json.loads((GOLDEN / "loss.json").read_text(encoding="utf-8"))["key"]
    neutral = preimage(upgraded, params | {"per_document": False}, inputs, sources)
    chosen = preimage(upgraded, params | {"per_document": True}, inputs, sources)
    assert key_of(neutral) == committed
    assert key_of(chosen) != committed


def test_a_parameter_that_no_kind_declares_is_refused():
    with pytest.raises(
        ValueError, match=r"loss: parameters that its spec does not declare: \['micro_batch'\]"
    ):
        preimage("loss", {"dtype": "bfloat16", "micro_batch": 8}, [])


def test_a_parameter_without_a_value_is_refused():
    with pytest.raises(ValueError, match=r"compose: parameters without a value: \['method'\]"):
        preimage("compose", {"dtype": "bfloat16"}, [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53 + 1])
def test_a_number_that_json_cannot_hold_exactly_is_refused(value):
    with pytest.raises(ValueError):  # noqa: PT011 - rfc8785 has a class for each, all of them ValueErrors
        digest.of_json({"learning_rate": value})


def test_a_key_is_the_sha256_of_sorted_json_without_spaces():
    assert digest.of_json({"b": 1.0, "a": ["ω", None, True]}) == digest.of_bytes(
        '{"a":["ω",null,true],"b":1}'.encode()
    )


def write_golden() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for kind in GIVEN:
        text = json.dumps(golden(kind), indent=2, ensure_ascii=False)
        (GOLDEN / f"{kind}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_golden()
