"""A task's closure: what is in it, how it is tagged, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dem_build.digest import of_file
from dem_build.errors import UsageError
from dem_build.lock.tasks import Closure, find_task, lm_eval_version


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task that includes a file, calls a function, whose module imports a neighbour, and has data beside it."""
    tasks = tmp_path / "recipe" / "tasks"
    write(
        tasks / "math.yaml",
        "task: math_words\ninclude: common/_base\nprocess_docs: !function helpers.process\n",
    )
    write(
        tasks / "common" / "_base",
        "dataset_path: json\ndataset_kwargs:\n  data_files: {test: [../data/a*.jsonl, data/b.jsonl]}\n",
    )
    write(
        tasks / "helpers.py", "from words import split_up\nimport os\n\ndef process(docs):\n    return docs\n"
    )
    write(tasks / "words.py", "def split_up(text): ...\n")
    write(tasks / "unused.py", "")
    write(tasks / "data" / "b.jsonl", "{}\n")
    write(tmp_path / "recipe" / "data" / "a1.jsonl", "{}\n")
    write(tmp_path / "recipe" / "data" / "a2.jsonl", "{}\n")
    return tasks


def contents(closure: Closure) -> dict[str, str]:
    return {tag: of_file(path) for tag, path in closure.files}


def test_a_closure_holds_all_that_the_task_refers_to_and_nothing_else(folder):
    closure = find_task("math_words", folder)
    assert [tag for tag, _ in closure.files] == [
        "local/../data/a1.jsonl",
        "local/../data/a2.jsonl",
        "local/common/_base",
        "local/data/b.jsonl",
        "local/helpers.py",
        "local/words.py",
        "task:local/math.yaml",
    ]
    assert closure.local
    assert closure.dataset is None


@pytest.mark.parametrize("name", ["math.yaml", "common/_base", "helpers.py", "words.py", "data/b.jsonl"])
def test_an_edit_of_any_file_of_the_closure_changes_it(folder, name):
    before = contents(find_task("math_words", folder))
    with (folder / name).open("a") as file:
        file.write("\n# an edit\n")
    after = contents(find_task("math_words", folder))
    assert [tag.removeprefix("task:") for tag in before if before[tag] != after[tag]] == [f"local/{name}"]


def test_a_moved_folder_has_the_same_tags(folder, tmp_path):
    before = contents(find_task("math_words", folder))
    (tmp_path / "recipe").rename(tmp_path / "elsewhere")
    assert contents(find_task("math_words", tmp_path / "elsewhere" / "tasks")) == before


def test_data_are_found_from_the_task_file_whatever_the_working_directory(folder, monkeypatch):
    before = find_task("math_words", folder)
    monkeypatch.chdir(folder)
    assert find_task("math_words", Path("../tasks")) == before


def test_functions_are_not_executed(folder, tmp_path):
    write(folder / "helpers.py", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    find_task("math_words", folder)
    assert not (tmp_path / "ran").exists()


def test_data_below_data_dir_belong_to_the_closure(tmp_path):
    write(tmp_path / "t.yaml", "task: t\ndataset_path: csv\ndataset_kwargs: {data_dir: rows}\n")
    write(tmp_path / "rows" / "sub" / "x.csv", "a\n1\n")
    assert "local/rows/sub/x.csv" in contents(find_task("t", tmp_path))


def test_a_local_task_may_need_a_hub_dataset(tmp_path):
    write(tmp_path / "t.yaml", "task: t\ndataset_path: openai/gsm8k\n")
    closure = find_task("t", tmp_path)
    assert (closure.dataset, closure.local) == ("openai/gsm8k", True)


def test_a_builtin_task_names_its_hub_dataset():
    closure = find_task("arc_easy", None)
    assert [tag for tag, _ in closure.files] == ["task:builtin/arc/arc_easy.yaml"]
    assert closure.dataset == "allenai/ai2_arc"
    assert not closure.local


def test_a_builtin_closure_follows_includes_and_functions():
    tags = [tag for tag, _ in find_task("arithmetic_2da", None).files]
    assert tags == [
        "builtin/arithmetic/arithmetic_1dc.yaml",
        "builtin/arithmetic/utils.py",
        "task:builtin/arithmetic/arithmetic_2da.yaml",
    ]


def test_a_local_task_stands_before_a_builtin_one(tmp_path):
    write(tmp_path / "mine.yaml", "task: arc_easy\ndataset_path: my/own\n")
    assert find_task("arc_easy", tmp_path).dataset == "my/own"


def test_hidden_folders_are_not_searched(tmp_path):
    write(tmp_path / ".venv" / "t.yaml", "task: dem_hidden\n")
    with pytest.raises(UsageError, match="no task dem_hidden"):
        find_task("dem_hidden", tmp_path)


def test_an_unknown_task_names_the_nearest(folder):
    with pytest.raises(UsageError, match="did you mean math_words"):
        find_task("math_wrods", folder)
    with pytest.raises(UsageError, match="did you mean arc_easy"):
        find_task("arc_eazy", None)


@pytest.mark.parametrize(
    ("name", "kind"), [("mmlu", "group"), ("glue", "tag"), ("math_word_problems", "tag")]
)
def test_a_group_or_a_tag_is_no_task(name, kind):
    with pytest.raises(UsageError, match=f"{name} is a {kind} of tasks, and no task"):
        find_task(name, None)


def test_two_files_of_one_task_are_refused(folder):
    write(folder / "copy.yaml", "task: 'math_words'\n")
    with pytest.raises(UsageError, match=r"copy\.yaml and .*math\.yaml both define"):
        find_task("math_words", folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("include: _gone", "includes _gone, which does not exist"),
        ("include: t.yaml", "includes itself"),
        ("dataset_path: json\ndataset_kwargs: {data_files: no.jsonl}", r"names the data no\.jsonl"),
        ("dataset_path: json\ndataset_kwargs: {data_files: 'https://example.org/x.jsonl'}", "nothing pins"),
        ("dataset_path: json\ndataset_kwargs: {data_files: 3}", "no pattern of files"),
        ("process_docs: !function not_there.f", "no Python file for !function not_there.f"),
        ("process_docs: [", "cannot be read as a task"),
        ("x: !!python/object/apply:os.system ['true']", "cannot be read as a task"),
    ],
)
def test_a_broken_task_is_refused_with_its_file(tmp_path, text, said):
    path = write(tmp_path / "t.yaml", f"task: t\n{text}\n")
    with pytest.raises(UsageError, match=said) as caught:
        find_task("t", tmp_path)
    assert caught.value.where == str(path)


def test_a_function_that_is_no_python_is_refused(tmp_path):
    write(tmp_path / "t.yaml", "task: t\nprocess_docs: !function f.g\n")
    write(tmp_path / "f.py", "def g(:\n")
    with pytest.raises(UsageError, match=r"f\.py: cannot be read as Python"):
        find_task("t", tmp_path)


def test_a_missing_include_path_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        find_task("t", tmp_path / "gone")


def test_neither_the_search_nor_the_version_imports_lm_eval():
    code = (
        "import sys; from dem_build.lock import tasks; assert 'yaml' not in sys.modules\n"
        "tasks.lm_eval_version(); tasks.find_task('arc_easy', None)\n"
        "print(sorted({'lm_eval', 'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_of_the_installed_package():
    import lm_eval

    assert lm_eval_version() == lm_eval.__version__


LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x]\n" + LAUGHS,
        "x: " + "[" * 50_000,
        "x: 2001-99-99\n",
        "x: !!timestamp x\n",
        "x: !!bool x\n",
        "x: !!python/object/apply:os.system ['touch canary']\n",
        "x: " + "9" * 5000 + "\n",
        "#" * 2_000_000,
    ],
    ids=["aliases of aliases", "levels", "no day", "no time", "no truth", "code", "digits", "size"],
)
def test_yaml_that_no_task_needs_is_refused(tmp_path, text):
    write(tmp_path / "t.yaml", "task: t\n" + text)
    with pytest.raises(UsageError, match="cannot be read as a task"):
        find_task("t", tmp_path)


def test_an_alias_that_leads_back_to_itself_is_followed_once(tmp_path):
    write(tmp_path / "t.yaml", "task: t\nloop: &l [*l, {again: *l}]\n")
    assert contents(find_task("t", tmp_path)).keys() == {"task:local/t.yaml"}


@pytest.mark.parametrize("code", ["x = " + "-" * 100_000 + "1", "a" + ".a" * 20_000, "\0"])
def test_python_that_cannot_be_parsed_is_refused(tmp_path, code):
    write(tmp_path / "helpers.py", code)
    write(tmp_path / "t.yaml", "task: t\nprocess_docs: !function helpers.f\n")
    with pytest.raises(UsageError, match="cannot be read as Python"):
        find_task("t", tmp_path)


def test_an_import_from_above_the_root_names_no_file(tmp_path):
    write(tmp_path / "helpers.py", "from " + "." * 200 + " import x\n")
    write(tmp_path / "t.yaml", "task: t\nprocess_docs: !function helpers.f\n")
    assert contents(find_task("t", tmp_path)).keys() == {"local/helpers.py", "task:local/t.yaml"}


def test_a_name_that_no_file_system_takes_is_refused(tmp_path):
    write(tmp_path / "t.yaml", f"task: t\ninclude: {'a' * 5000}\n")
    with pytest.raises(UsageError, match="cannot be read"):
        find_task("t", tmp_path)


@pytest.mark.parametrize("dataset", ["{a: b}", "[x]", "3"])
def test_a_dataset_that_is_no_name_needs_no_hub(tmp_path, dataset):
    write(tmp_path / "t.yaml", f"task: t\ndataset_path: {dataset}\n")
    assert find_task("t", tmp_path).dataset is None
