"""The recipe language: what a good recipe means, and that each mistake is told with its line, all at once.

`tests/recipes/` has a folder for each mistake: a recipe, and the exact text that tells it.
"""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from dem_build.errors import RecipeError
from dem_build.lock.pin import ModelRef, hub_refs
from dem_build.machine import Machine
from dem_build.recipe import Recipe, load_recipe, project_folder, read_recipe
from dem_build.recipe.docs import EXAMPLES, MACHINE_EXAMPLE, markdown
from dem_build.recipe.load import checked
from dem_build.recipe.toml import dotted, frozen

ROOT = Path(__file__).parents[2]
MISTAKES = sorted((ROOT / "tests" / "recipes").iterdir())

MINIMAL = """\
[base]
model = "base"

[datasets.math]
path = "math.jsonl"
omega = 0.5
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="recipe.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(write):
    return lambda text, *overrides: load_recipe(write(text), overrides)


def mistakes_in(data):
    return checked(data)[1]


def problems_of(call, *arguments):
    with pytest.raises(RecipeError) as caught:
        call(*arguments)
    assert caught.value.exit_status == 2
    return caught.value.problems


# Mistakes


@pytest.mark.parametrize("folder", MISTAKES, ids=lambda f: f.name)
def test_a_mistake_is_told_with_file_line_key_and_mend(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("recipe.toml"))
    assert f"{caught.value}\n" == (folder / "expected.txt").read_text(encoding="utf-8")


def test_a_recipe_that_is_not_there_is_one_problem(tmp_path):
    [problem] = problems_of(load_recipe, tmp_path / "no.toml")
    assert (problem.line, problem.what) == (0, "there is no such recipe")


def test_a_folder_is_no_recipe(tmp_path):
    [problem] = problems_of(load_recipe, tmp_path)
    assert problem.what == "is a folder, not a recipe"


def test_a_file_name_that_cannot_name_a_build_asks_for_a_name(write):
    [problem] = problems_of(load_recipe, write(MINIMAL, "my recipe.v2.toml"))
    assert (problem.key, problem.what) == (
        "name",
        "the file's name, `my recipe.v2`, cannot name what is built",
    )
    assert load_recipe(write('name = "fine"\n' + MINIMAL, "my recipe.v2.toml")).name == "fine"


MISTAKEN = """
tset = 0.1

[datasets.code]
path = 3
max_samples = 5

[vectors.a]
checkpoint = 3

[vectors.b]
checkpoint = "./b"
omega = 1.0

[evaluate]
include_path = 3
tasks = ["words"]
"""


def test_what_a_mistake_leaves_of_a_recipe_is_kept(write):
    recipe, problems = read_recipe(write(f"{MINIMAL}{MISTAKEN}"))
    assert [p.key for p in problems] == [
        "datasets.math.tset", "datasets.code.path", "vectors.a.checkpoint", "evaluate.include_path",
    ]  # fmt: skip
    assert recipe is not None
    assert {name: (d.path, d.max_samples) for name, d in recipe.datasets.items()} == {
        "math": ("math.jsonl", None),
        "code": (None, 5),
    }
    assert [*recipe.vectors] == ["b"]
    assert recipe.evaluate is None
    assert read_recipe(write(MINIMAL.replace('"base"', "3")))[0] is None


def test_a_problem_found_later_gets_the_line_of_its_key(write):
    path = write(MINIMAL)
    problem = load_recipe(path).problem("datasets.math.path", "no file matches", "look there")
    assert str(problem) == f"{path}:5: datasets.math.path: no file matches (look there)"
    assert load_recipe(path).problem("evaluate.tasks[1]", "no").line == 0


def test_a_problem_found_later_of_a_key_that_was_set_names_the_option(write):
    recipe = load_recipe(write(MINIMAL), ["datasets.math.path=there.jsonl"])
    assert (
        recipe.problem("datasets.math.path", "no file matches").file == "--set datasets.math.path=there.jsonl"
    )
    assert recipe.problem("datasets.math.omega", "no").line > 0


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_number_of_a_recipe_is_infinite_or_nan(load, value):
    gate = f'\n[evaluate]\n[[gates]]\ntask = "loss:math"\nmetric = "loss"\nmax = {value}\n'
    [problem] = problems_of(load, MINIMAL + gate)
    assert problem.what == f"must be a finite number, not {value}"


DOUBTFUL = """
[train]
warmup_steps = 3
lr_scheduler_type = "constant"
optim = "adamm"

[datasets.code]
path = 3
validation = "x"
test = false
train = { eval_steps = "often", load_best_model_at_end = true }

[datasets.poems]
validation = 0
train = { load_best_model_at_end = true, max_steps = 0, num_train_epochs = 1 }

[evaluate]
tasks = ["words", 3, "words", { name = "sums", limit = 0 }]
models = ["composed", 3, "nobody"]

[[gates]]
task = "sums"
metric = "acc"
min = "much"
max_drop = 0.1
against = "base"

[[gates]]
task = "sumz"
metric = 3
min = 2
max = 1
"""


def test_a_wrong_value_silences_what_rests_on_it_and_nothing_else(load):
    told = {p.key: p.what for p in problems_of(load, MINIMAL + DOUBTFUL)}
    shapes = {key for key, what in told.items() if what.startswith("must ")}
    assert shapes == {
        "train.optim", "datasets.code.path", "datasets.code.test",
        "datasets.code.train.eval_steps", "datasets.poems.train.max_steps", "evaluate.tasks[1]",
        "evaluate.tasks[3].limit", "evaluate.models[1]", "gates[0].min", "gates[1].metric",
    }  # fmt: skip
    assert {key: what for key, what in told.items() if key not in shapes} == {
        "train.warmup_steps": 'has no effect with lr_scheduler_type = "constant"',
        "datasets.poems": "has neither `path` nor `hub`",
        "datasets.poems.validation": 'is 0, and omega = "tune", the default, is judged on validation rows',
        "datasets.poems.train.load_best_model_at_end": "has no effect while `eval_steps` is 0",
        "evaluate.tasks[2]": "the task `words` is named twice",
        "evaluate.models[2]": "there is no model `nobody`",
        "gates[0].against": "`base` is no model that [evaluate] measures besides the composed one",
        "gates[1].task": "nothing evaluates `sumz`",
        "gates[1].min": "min is 2 and max is 1, so nothing can pass",
    }


# What a good recipe means


def test_a_minimal_recipe_has_the_defaults_of_the_contract(load):
    recipe = load(MINIMAL)
    train, dataset = recipe.train_of("math"), recipe.datasets["math"]
    assert recipe.name == "recipe"
    assert (recipe.base.revision, recipe.base.dtype, recipe.compose.method, recipe.compose.dtype) == (
        "main", None, "dem", "bfloat16",
    )  # fmt: skip
    assert (train.method, train.optim, train.learning_rate, train.num_train_epochs, train.max_steps) == (
        "full", "adamw_torch_fused", 2e-5, 1.0, None,
    )  # fmt: skip
    assert (train.global_batch_size, train.max_length, train.packing, train.bf16, train.seed) == (
        32, 1024, False, True, 42,
    )  # fmt: skip
    assert (train.lr_scheduler_type, train.warmup_steps, train.weight_decay, train.max_grad_norm) == (
        "cosine", 0.03, 0.0, 1.0,
    )  # fmt: skip
    assert (dataset.chat, dataset.on_overflow, dataset.validation, dataset.test) == (
        "auto",
        "drop",
        0.05,
        0.05,
    )
    assert (recipe.tune, recipe.analysis, recipe.evaluate, recipe.gates) == (None, None, None, ())


def test_a_task_is_a_name_or_a_table(load):
    tasks = (
        '\n[evaluate]\ntasks = ["arc_easy", { name = "math", num_fewshot = 4, apply_chat_template = true }]\n'
    )
    evaluate = load(MINIMAL + tasks).evaluate
    assert evaluate is not None
    assert [(t.name, t.num_fewshot, t.limit, t.apply_chat_template) for t in evaluate.tasks] == [
        ("arc_easy", None, None, False),
        ("math", 4, None, True),
    ]
    assert (evaluate.loss, evaluate.models) == (True, ("composed", "base"))


def test_a_datasets_train_table_overrides_key_by_key(load):
    recipe = load(
        "[train]\nlearning_rate = 1e-3\nseed = 7\n" + MINIMAL + "train = { learning_rate = 2e-3 }\n"
    )
    assert (recipe.train_of("math").learning_rate, recipe.train_of("math").seed) == (2e-3, 7)
    assert recipe.train.learning_rate == 1e-3


def test_an_override_that_repeats_a_default_still_overrides(load):
    recipe = load("[train]\nseed = 7\n" + MINIMAL + "train = { seed = 42 }\n")
    assert recipe.train_of("math").seed == 42


@pytest.mark.parametrize(
    ("train", "own", "expected"),
    [
        ("max_steps = 9", "", (None, 9)),
        ("max_steps = 9", "train = { num_train_epochs = 3 }", (3.0, None)),
        ("num_train_epochs = 2", "train = { max_steps = 5 }", (None, 5)),
        ("", "train = { max_steps = 5 }", (None, 5)),
        ("max_steps = 9", "train = { seed = 1 }", (None, 9)),
        ("num_train_epochs = 2", "train = { seed = 1 }", (2.0, None)),
    ],
)
def test_steps_and_epochs_are_one_choice(load, train, own, expected):
    resolved = load(f"[train]\n{train}\n{MINIMAL}{own}\n").train_of("math")
    assert (resolved.num_train_epochs, resolved.max_steps) == expected


def test_comments_order_and_place_do_not_change_a_recipe(load, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "other.toml").write_text(
        '# a comment\nname = "recipe"\ndatasets.math = { omega = 0.50, path = "math.jsonl" }\n'
        "[base]\nmodel = 'base'\n"
    )
    first, second = load(MINIMAL), load_recipe(moved / "other.toml")
    assert first == second
    assert first.path != second.path
    assert first != load(MINIMAL.replace("0.5", "0.4"))


def test_a_recipe_is_frozen(load):
    with pytest.raises(ValidationError, match="frozen"):
        load(MINIMAL).train.seed = 1


def test_paths_start_from_the_recipes_folder(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    recipe = load(MINIMAL)
    assert recipe.folder == tmp_path
    assert recipe.resolve("data/a.jsonl") == tmp_path / "data" / "a.jsonl"
    assert recipe.resolve("/data/a.jsonl") == Path("/data/a.jsonl")
    assert recipe.resolve("~/a.jsonl") == Path("/home/someone/a.jsonl")


def test_the_recipes_path_is_absolute_and_messages_name_it_as_given(write, monkeypatch):
    path = write(MINIMAL)
    monkeypatch.chdir(path.parent)
    recipe = load_recipe(Path("recipe.toml"))
    assert recipe.path == path
    assert recipe.problem("base", "no").file == "recipe.toml"


def test_a_recipe_is_the_same_from_wherever_it_is_named(write, tmp_path, monkeypatch):
    path = write(MINIMAL)
    (tmp_path / "below").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "below")
    (tmp_path / "below" / ".git").mkdir()  # of a project that the recipe is not in
    monkeypatch.chdir(tmp_path / "below")
    for named in ("../recipe.toml", tmp_path / "link" / ".." / "recipe.toml"):
        recipe = load_recipe(Path(named))
        assert recipe.path == path
        assert project_folder(recipe.path) == tmp_path


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "recipe.toml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_recipe(tmp_path / "recipe.toml").base.model == "base"


# --set


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("datasets.math.omega = 0.25", "datasets.math.omega", 0.25),
        ("base.model=other", "base.model", "other"),
        ('base.model="other"', "base.model", "other"),
        ("base.model=some/folder with spaces", "base.model", "some/folder with spaces"),
        ("evaluate.tasks.1.limit=5", "evaluate.tasks.1.limit", 5),
        ('evaluate.models=["composed"]', "evaluate.models", ("composed",)),
        ('"compose"."dtype"=float32', "compose.dtype", "float32"),
        ("base.salt=", "base.salt", ""),
    ],
)
def test_set_changes_one_key(load, override, key, value):
    found = load(MINIMAL + '\n[evaluate]\ntasks = ["a", { name = "b" }]\n', override)
    for part in key.split("."):
        found = (
            found[int(part)]
            if part.isdecimal()
            else found[part]
            if isinstance(found, dict)
            else getattr(found, part)
        )
    assert found == value


def test_set_makes_tables_that_are_not_there(load):
    recipe = load(MINIMAL, "datasets.code.path=code.jsonl", "datasets.code.omega=1", "evaluate.loss=false")
    assert recipe.datasets["code"].omega == 1.0
    assert recipe.evaluate is not None
    assert not recipe.evaluate.loss


@pytest.mark.parametrize("table", ["train", "datasets.math.train"])
def test_set_replaces_the_other_length(load, table):
    recipe = load(f"{MINIMAL}[{table}]\nnum_train_epochs = 3\n", f"{table}.max_steps=5")
    assert (recipe.train_of("math").num_train_epochs, recipe.train_of("math").max_steps) == (None, 5)


def test_the_last_set_of_a_key_wins(load):
    assert load(MINIMAL, "train.seed=1", "train.seed=2").train.seed == 2


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.seed", "must be KEY=VALUE, such as train.learning_rate=1e-5"),
        ("=5", "must be KEY=VALUE, such as train.learning_rate=1e-5"),
        ("base.model.x=5", "`base.model` is no table"),
        ("gates.0.min=5", "`gates` is a list of 0 items, numbered from 0"),
        ("train.seed=one", 'must be a whole number, not "one"'),
        ("train.sed=1", "unknown key"),
        ("analysis.response.0=1", "must be a list, not a table"),
    ],
)
def test_a_wrong_set_is_told_by_its_own_words(load, override, what):
    text = MINIMAL + "\n[evaluate]\ntasks = []\n"
    [problem] = problems_of(load, "gates = []\n" + text, override)
    assert (problem.file, problem.line, problem.what) == (f"--set {override}", 0, what)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.num_epochs=1", "did you mean `num_train_epochs`?"),
        ("train.micro_batch_size=4", "`global_batch_size` in [train] counts the sequences of a step"),
        (
            "train.per_device_train_batch_size=4",
            "`global_batch_size` in [train] counts the sequences of a step",
        ),
        ("train.gradient_accumulation_steps=8", "`micro_batch` in the machine file those of one pass"),
        ("train.adapter='lora'", 'method = "lora" in [train]'),
        ("datasets.a.adapter='org/x'", "one from elsewhere is `adapter` in [vectors.NAME]"),
        ("train.type='lora'", "did you mean `method`?"),
        ("tune.type='grid'", "did you mean `search`?"),
        ("datasets.a.type='alpaca'", "did you mean `format`?"),
        ("gates=[{ type = 'x', task = 'a', metric = 'loss', max = 1.0 }]", "known: `against`, `margin`"),
        ("base_model='org/x'", "`model` in [base]"),
        ("merge_method='ties'", "`method` in [compose]"),
        ("train.flash_attention=true", "`attn_implementation` belongs in the machine file"),
        ("base.load_in_4bit=true", "no base is loaded in 4 bits"),
        ("base.lora_r=4", "`lora_r` belongs in [train]"),
        ("train.path='x'", "`path` belongs in [datasets.NAME]"),
        ("compose.lambda=0.9", "did you mean `scale`?"),
        ("compose.method='task_arithmetic'", 'did you mean "dem"?'),
        ("compose.method='linear'", 'did you mean "interpolation"?'),
        ("vectors.v={ path = 'x', omega = 1.0 }", "did you mean `checkpoint`?"),
        ("gates=[{ on = 'x', metric = 'loss', max = 1.0 }]", "did you mean `task`?"),
    ],
)
def test_a_word_of_another_tool_leads_to_what_is_meant_and_to_no_key_of_another_meaning(load, override, hint):
    told = problems_of(load, MINIMAL, override)
    assert any(hint in problem.hint for problem in told), told


@pytest.mark.parametrize(("name", "leads"), [("merge.yml", True), ("recipe.toml", False)])
def test_a_file_of_another_tool_leads_to_the_page_of_it(tmp_path, name, leads):
    (tmp_path / name).write_text("merge_method: ties\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / name)
    [problem] = caught.value.problems
    assert (problem.line, "docs/coming-from.md" in problem.hint) == (1, leads)


def test_mistakes_of_the_file_and_of_sets_are_told_together(load):
    told = problems_of(load, MINIMAL + "tset = 0.1\n", "train.seed=-1", "nothing")
    assert [p.what for p in told] == [
        "must be KEY=VALUE, such as train.learning_rate=1e-5",
        "must be at least 0, not -1",
        "unknown key",
    ]


# The whole language, and what this version has of it


def whole_language():
    return frozen(tomllib.loads('name = "assistant"\n' + "".join(EXAMPLES.values())))


def test_the_examples_use_the_language_without_mistakes():
    language = whole_language()
    # A trunk goes with no vector from elsewhere, and with no mixture whose scale is searched.
    assert {dotted(m.key) for m in mistakes_in(language)} == {"vectors.code", "baselines.mix.alpha"}
    assert mistakes_in({name: table for name, table in language.items() if name != "trunk"}) == []
    recipe = Recipe.model_validate(language)
    assert recipe.tune is not None
    assert recipe.tune.importance == {"math": 2.0}
    assert recipe.vectors["code"].omega == 0.3
    assert Machine.model_validate(frozen(tomllib.loads(MACHINE_EXAMPLE)), strict=True).micro_batch == 4


@pytest.mark.parametrize(
    "line",
    [
        'hub = "openai/gsm8k"\nconfig = "main"\nrevision = "v1"\nsplit = "train"\nvalidation = { split = "dev" }',
        'path = "a.jsonl"\nformat = "alpaca"\ncolumns = { instruction = "q", output = "a" }\nloss = "completion"',
        'path = "a.jsonl"\nformat = "sharegpt"\nloss = "assistant"\nvalidation = "dev.jsonl"',
        'path = "a.jsonl"\nformat = "messages"\ncolumns = { messages = "turns" }\ngroup_by = "user"\nchat = true',
        'path = "a.jsonl"\ncolumns = { text = "body" }\nloss = "all"\nvalidation = 0\ntest = 0\nomega = 1',
        'path = "a.jsonl"\nomega = -0.5\ntrain = { method = "lora", lora_r = 4, lora_target_modules = ["q_proj"] }',
    ],
)
def test_the_language_takes(line):
    text = f'name = "a"\n[base]\nmodel = "org/name"\nrevision = "main"\n[datasets.a]\n{line}\n'
    assert mistakes_in(frozen(tomllib.loads(text))) == []


def places_of(value, key=()):
    """Every place in a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, inner in pairs:
        yield (*key, part)
        yield from places_of(inner, (*key, part))


ODD = (3, -0.5, math.nan, "x", "", True, [], [[1]], {}, {"a": {"b": 1}}, dt.date(2024, 1, 1))


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_no_value_anywhere_breaks_the_checker(odd):
    """Where a value has any other shape, there are mistakes or a recipe, and never another exception."""
    text = 'name = "assistant"\n' + "".join(EXAMPLES.values())
    for place in places_of(tomllib.loads(text)):
        data = tomllib.loads(text)
        table = data
        for part in place[:-1]:
            table = table[part]
        table[place[-1]] = odd
        found = mistakes_in(frozen(data))
        assert all(m.what and dotted(m.key) for m in found)


def test_a_gate_may_compare_with_a_single_vector_that_is_measured(load):
    gate = 'task = "loss:math"\nmetric = "loss"\nmax_drop = 0.1\nagainst = "math"'
    text = MINIMAL + '\n[evaluate]\nmodels = ["composed", "vectors"]\n[[gates]]\n' + gate
    assert load(text).gates[0].against == "math"
    [problem] = problems_of(load, text.replace(', "vectors"', ""))
    assert problem.key == "gates[0].against"


def test_the_reference_is_current():
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: python -m dem_build.recipe.docs > docs/recipe.md"


def test_every_key_is_described():
    assert "| None |" not in markdown()


def test_a_local_folder_comes_before_a_hub_id(write):
    path = write(MINIMAL.replace('"base"', '"org/name"'))
    assert hub_refs(load_recipe(path)) == {"base": ModelRef("model", "org/name", "main")}
    (path.parent / "org" / "name").mkdir(parents=True)
    assert hub_refs(load_recipe(path)) == {}


@pytest.mark.parametrize(
    ("table", "source"),
    [("[base]", "model"), ("[vectors.code]", "checkpoint"), ("[vectors.code]", "adapter")],
)
def test_only_a_hub_id_has_a_revision(write, table, source):
    before = "" if table == "[base]" else '[base]\nmodel = "base"\n'
    after = "" if table == "[base]" else "omega = 0.5\n"
    path = write(f'{before}{table}\n{source} = "org/name"\nrevision = "v1"\n{after}')
    load_recipe(path)
    (path.parent / "org" / "name").mkdir(parents=True)
    [problem] = problems_of(load_recipe, path)
    assert problem.key == f"{table.strip('[]')}.revision"
    assert problem.what == f"a local {source} has no revision, and there is a folder `org/name` here"


def test_a_name_that_no_folder_can_have_is_a_hubs(write):
    assert hub_refs(load_recipe(write(MINIMAL.replace('"base"', f'"org/{"n" * 300}"'))))


def test_reading_a_recipe_imports_nothing_heavy(write):
    code = (
        "import sys; from pathlib import Path; from dem_build.recipe import load_recipe; "
        "load_recipe(Path(sys.argv[1])); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(write(MINIMAL))], capture_output=True, text=True, check=True
    )
    heavy = {
        "torch",
        "numpy",
        "transformers",
        "datasets",
        "lm_eval",
        "rich",
        "typer",
        "pyarrow",
        "dem_build.recipe.docs",
    }
    assert not heavy & set(done.stdout.split())


def test_whole_numbers_of_a_recipe_stay_what_they_are_worth(load):
    """A key is canonical JSON: 1 and 1.0 must not be two keys, so a number is always a float."""
    recipe = load(MINIMAL.replace("0.5", "1") + "validation = 0\n")
    assert isinstance(recipe.datasets["math"].omega, float)
    assert isinstance(recipe.datasets["math"].validation, float)
    assert math.isfinite(recipe.datasets["math"].omega)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = 1\n" + ".".join(["a"] * 50_000) + " = 1", "nested too deeply"),
        ("a = " + "[" * 100 + "]" * 100, "nested too deeply"),
        ("a = " + "[" * 50_000, "nested too deeply"),
        ("a = " + "9" * 5000, "digits"),
        ("#" * 2_000_000, "2000000 bytes"),
    ],
    ids=["a long key", "levels", "many levels", "digits", "size"],
)
def test_a_text_that_costs_more_than_any_recipe_is_refused(tmp_path, text, what):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=what):
        load_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    "text",
    [".".join(["a"] * 5000) + "=1", "train.seed=" + "9" * 5000, "x=" + "[" * 5000, '"\\ud800"=1'],
    ids=["a long key", "digits", "levels", "half a pair"],
)
def test_an_override_that_costs_more_than_any_is_refused(tmp_path, text):
    (tmp_path / "r.toml").write_text("[base]\nmodel = 'base'\n")
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "r.toml", [text])


def test_a_wrong_method_of_one_training_hides_no_mistake_of_another():
    text = (
        'name = "a"\n[base]\nmodel = "org/name"\n[datasets.a]\npath = "a.jsonl"\ntrain = { method = "lra" }\n'
        '[datasets.b]\npath = "b.jsonl"\ntrain = { lora_r = 4 }\n'
    )
    told = [str(mistake) for mistake in mistakes_in(frozen(tomllib.loads(text)))]
    assert any("has no effect without method" in mistake for mistake in told), told


@pytest.mark.parametrize(
    ("train", "own", "told"),
    [
        ("learning_rate = 2e-5", 'method = "lora"', ["datasets.a.train", "heal.train"]),
        ('learning_rate = 2e-4\nmethod = "lora"', 'method = "full"', ["datasets.a.train", "heal.train"]),
        ("learning_rate = 2e-5", 'method = "lora", learning_rate = 2e-4', []),
        ("learning_rate = 2e-5", 'method = "full"', []),
        ("", 'method = "lora"', []),  # each method's own default
    ],
)
def test_a_rate_that_was_written_for_another_method_is_told_and_stays(load, train, own, told):
    recipe = load(
        f'[base]\nmodel = "org/name"\n[train]\n{train}\n[datasets.a]\npath = "a.jsonl"\ntrain = {{ {own} }}\n'
        f'[datasets.b]\npath = "b.jsonl"\n[heal]\ntrain = {{ max_steps = 2, {own} }}\n'
    )
    assert recipe.inherited_rates == told
    if told:
        of_a = recipe.train.with_own(recipe.datasets["a"].train)
        assert of_a.peak_learning_rate == recipe.train.learning_rate, (
            "keys of recipes that there are do not move"
        )
