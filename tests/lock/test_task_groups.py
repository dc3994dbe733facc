"""Groups and tags of tasks: what they stand for, and that scores are lm-eval's own."""

from __future__ import annotations

import json

import pytest
from lm_eval.api.group import Group
from lm_eval.config.group import AggMetricConfig

from dem_build.errors import UsageError
from dem_build.lock import lock, task_index
from dem_build.lock.absent import Absent
from dem_build.lock.task_groups import Score, TaskGroup, asked, find_groups
from dem_build.recipe import Task
from dem_build.report.comparison import folded, rows
from dem_build.report.groups import group_directions, group_scores
from dem_build.report.results import Results


@pytest.fixture
def folder(tmp_path):
    for name, tag in (("one", "sums"), ("two", "sums"), ("three", "other")):
        (tmp_path / f"{name}.yaml").write_text(f"tag: {tag}\ntask: {name}\n")
    return tmp_path


def test_mmlu_is_its_57_tasks_and_the_groups_within():
    groups = find_groups("mmlu", None)
    assert list(groups) == ["mmlu", "mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"]
    assert len(groups["mmlu"].tasks) == 57
    assert sum(len(groups[name].tasks) for name in groups["mmlu"].groups) == 57
    assert groups["mmlu"].scores == (Score("acc"),)
    assert not groups["mmlu"].local


def test_bbh_names_its_filter_and_a_task_is_no_group():
    [(name, group)] = find_groups("bbh", None).items()
    assert (name, len(group.tasks)) == ("bbh", 27)
    assert group.scores == (Score("exact_match", ("get-answer",)),)
    assert find_groups("mathqa", None) == {}


def test_a_tag_stands_for_its_tasks_and_has_no_score(folder):
    assert find_groups("sums", folder) == {"sums": TaskGroup({"one": None, "two": None}, local=True)}


def test_groups_within_groups_say_how_many_examples(folder):
    (folder / "group.yaml").write_text("""\
group: all
num_fewshot: 1
task:
  - sums
  - task: three
    num_fewshot: 5
  - group: inner
    task: [one, mathqa]
    aggregate_metric_list: {metric: acc, weight_by_size: false, filter_list: none}
aggregate_metric_list:
  - metric: acc
""")
    groups = find_groups("all", folder)
    assert groups["all"].tasks == {"one": 1, "two": 1, "three": 5, "mathqa": 1}
    assert groups["all"].groups == ("all::inner",)
    assert groups["all::inner"].scores == (Score("acc", ("none",), weighted=False),)
    assert {n: TaskGroup.parse(json.loads(json.dumps(g.document()))) for n, g in groups.items()} == groups
    found = {task.name: task for task in asked((Task(name="all", limit=7),), groups)}
    assert {name: (task.num_fewshot, task.limit) for name, task in found.items()} == {
        "one": (1, 7), "two": (1, 7), "three": (5, 7), "mathqa": (1, 7)
    }  # fmt: skip
    assert asked((Task(name="all", num_fewshot=0),), groups)[2].num_fewshot == 0
    assert len(asked((Task(name="all"), Task(name="one", num_fewshot=1)), groups)) == 4
    with pytest.raises(UsageError, match="the task one is asked for by all and by one, not alike"):
        asked((Task(name="all"), Task(name="one")), groups)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: [nowhere_to_be_found]", "names nowhere_to_be_found: there is no task"),
        ("task: [g]", "nested too deeply"),
        ("task: [one]\nmetric_list: []", "sets `metric_list`, which dem does not follow"),
        ("task: [{task: one, doc_to_text: x}]", "the task one in the group g sets `doc_to_text`"),
        ("task: [one]\nnum_fewshot: many", "no number of examples"),
        ("task: [3]", "names no tasks"),
        (
            "task: [one]\naggregate_metric_list: [{metric: acc, aggregation: max}]",
            "a group's score is a mean",
        ),
        ("task: [one]\naggregate_metric_list: [{aggregation: mean}]", "cannot be read"),
    ],
)
def test_what_a_group_asks_for_in_vain_is_told_with_its_file(folder, text, told):
    (folder / "g.yaml").write_text(f"group: g\n{text}\n")
    with pytest.raises(UsageError, match=told) as raised:
        find_groups("g", folder)
    assert str(raised.value.where).endswith("g.yaml")


class Leaf:
    """What lm-eval asks of a task to aggregate its results."""

    def __init__(self, name):
        self.task_name = name


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("filters", [None, ("strict",), ("loose",)])
def test_scores_are_lm_evals(weighted, filters, monkeypatch):
    """`strict` is each task's first filter, whose metrics have the plain name here."""
    theirs = {
        "a": {
            "em,strict": 0.5,
            "em_stderr,strict": 0.05,
            "em,loose": 0.7,
            "em_stderr,loose": 0.03,
            "sample_len": 100,
        },
        "b": {
            "em,strict": 0.1,
            "em_stderr,strict": 0.02,
            "em,loose": 0.3,
            "em_stderr,loose": 0.01,
            "sample_len": 30,
        },
        "c": {"acc,none": 1.0, "acc_stderr,none": 0.0, "sample_len": 5},
    }
    ours = {
        "a": {"em": 0.5, "em_stderr": 0.05, "em@loose": 0.7, "em@loose_stderr": 0.03, "samples": 100},
        "b": {"em": 0.1, "em_stderr": 0.02, "em@loose": 0.3, "em@loose_stderr": 0.01, "samples": 30},
        "c": {"acc": 1.0, "acc_stderr": 0.0, "samples": 5},
    }
    group = Group(
        "g",
        aggregate_metric_list=[AggMetricConfig("em", list(filters) if filters else None, "mean", weighted)],
    )
    monkeypatch.setattr(Group, "get_all_tasks", lambda *_, **__: [Leaf(n) for n in theirs])
    expected = group.aggregate(theirs)
    [(_, found)] = group_scores(
        {"g": TaskGroup(dict.fromkeys(ours), (Score("em", filters, weighted),))}, ours
    ).items()
    names = {"strict": "em", "loose": "em@loose"}
    wanted = {"samples": 135.0}
    for filtered in filters or names:
        wanted[names[filtered]] = expected[f"em,{filtered}"]
        wanted[f"{names[filtered]}_stderr"] = expected[f"em_stderr,{filtered}"]
    assert found == pytest.approx(wanted)


def test_a_group_of_which_a_task_is_not_measured_has_no_score():
    groups = {"g": TaskGroup({"a": None, "b": None}, (Score("acc"),)), "tag": TaskGroup({"a": None})}
    assert group_scores(groups, {"a": {"acc": 0.5, "samples": 3}}) == {}
    told = {"a": {"acc": True}, "b": {"acc": False, "loss": False}}
    assert group_directions(groups, told)["g"] == {"acc": True, "loss": False}


def test_a_host_keeps_the_names_of_lm_evals_tasks(monkeypatch, tmp_path):
    """Reading 14,000 files takes seconds, and this host does it once for a version."""
    monkeypatch.setenv("DEM_HINTS", str(tmp_path))
    made = tmp_path / "tasks"
    made.mkdir()
    (made / "one.yaml").write_text('"tag": "sums"\n"task": "one"\n')
    monkeypatch.setattr(task_index, "builtin_folder", lambda: made)
    task_index._all_builtin.cache_clear()
    try:
        first = task_index._all_builtin()
        assert (first.tasks, first.tags) == ({"one": made / "one.yaml"}, {"sums": ["one"]})
        monkeypatch.setattr(task_index, "_yaml_files", lambda _: pytest.fail("read again"))
        task_index._all_builtin.cache_clear()
        assert task_index._all_builtin() == first
        [kept] = tmp_path.glob("tasks-*.json")
        kept.write_text("{")
        monkeypatch.undo()
        monkeypatch.setenv("DEM_HINTS", str(tmp_path))
        monkeypatch.setattr(task_index, "builtin_folder", lambda: made)
        task_index._all_builtin.cache_clear()
        assert task_index._all_builtin() == first
    finally:
        task_index._all_builtin.cache_clear()


def test_a_task_that_somebody_adds_to_their_copy_of_lm_eval_is_found(monkeypatch, tmp_path):
    """Its version and its folder say nothing of a file more in a folder below."""
    monkeypatch.setenv("DEM_HINTS", str(tmp_path))
    made = tmp_path / "tasks"
    (made / "sums").mkdir(parents=True)
    (made / "sums" / "one.yaml").write_text("task: one\n")
    monkeypatch.setattr(task_index, "builtin_folder", lambda: made)
    try:
        for name in ("one", "two"):
            task_index._all_builtin.cache_clear()
            task_index._builtin_index.cache_clear()
            assert task_index.find(name, None) == made / "sums" / f"{name}.yaml"
            (made / "sums" / "two.yaml").write_text("task: two\n")
    finally:
        task_index._all_builtin.cache_clear()
        task_index._builtin_index.cache_clear()


def test_in_tables_a_group_with_a_score_stands_for_its_tasks():
    measured = {name: {"acc": 0.5, "samples": 3} for name in ("a", "b", "c", "g")}
    results = Results(table={"composed": measured}, members={"a": "g", "b": "g", "c": "unscored"})
    assert [row.task for row in rows(results)] == ["c", "g"]
    assert folded(results) == {"g": ["a", "b"]}


def test_a_lock_tells_of_groups_whose_files_are_not_here(tmp_path):
    inner, outer = (
        TaskGroup({"a": 3}, (Score("acc"),)),
        TaskGroup({"a": 3, "b": None}, groups=("inner",), local=True),
    )
    groups = {"outer": outer, "inner": inner}
    made = lock.Lock(lock.LockedBase("gguf", ()), groups=groups)
    document = json.loads(json.dumps(lock.document(made, tmp_path)))
    assert Absent(document, tmp_path).groups("outer") == groups
    assert Absent(document, tmp_path).groups("a") == {}
    assert lock.changes(lock.document(lock.Lock(made.base), tmp_path), made, tmp_path) == [
        "groups.inner",
        "groups.outer",
    ]
    for damaged in ({"tasks": ["a"]}, {"tasks": {"a": -1}}, {"scores": [{}]}, {"groups": ["gone"]}):
        odd = {"groups": {"outer": document["groups"]["outer"] | damaged}}
        assert Absent(odd, tmp_path).groups("outer") == {}
