"""What the terminal shows, and what a log gets."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from build_samples import ACC, LOSS, Made, make_graph, outcome_of
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from dem_build.actions.tune.read import Tuned, Tuning, read_tuning
from dem_build.engine.outcome import Done, Outcome, Result
from dem_build.errors import Problem, RecipeError, StoreError, TrainingError
from dem_build.plan import History, decide
from dem_build.recipe.sections import Gate
from dem_build.report.actions import lines_before_results
from dem_build.report.gates import check
from dem_build.report.results import Results, collect
from dem_build.view.follow import make_listener
from dem_build.view.lines import PlainListener, Progress
from dem_build.view.live import MOST_WAITING, LiveListener
from dem_build.view.plan import plan_table
from dem_build.view.results import closing_lines, remaining_warnings, result_table, say_lines
from dem_build.view.text import render_error, say, shorten
from dem_build.view.work import WorkLines

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HOSTILE = "a\x1b[2Jb\x07[bold]c[/bold]\u202ed\re"
LONG = "instructions-for-code-from-a-place-far-away"


def a_log(width=80):
    return Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False)


def a_terminal(width=80):
    # A terminal that draws no motion: what is left is what a person reads.
    return Console(
        file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False, force_terminal=True,
        color_system="standard", _environ={"TERM": "xterm"},
    )  # fmt: skip


def shown(console):
    return SEQUENCE.sub("", console.file.getvalue())


def squeezed(text):
    """Text without the layout: one space for any white space."""
    return " ".join(text.split())


def event(done, total, at, **more):
    return {"event": "progress", "time": at, "done": done, "total": total, "unit": "steps", **more}


def sample(names=("math",), metrics=None, models=("composed", "base")):
    graph, made = make_graph(names, models=models), Made()
    made.metrics |= metrics or {}
    records = made.build(graph)
    return graph, records, collect(graph, records, made.read)


@pytest.fixture
def graph():
    return make_graph()


# Plans


def test_a_plan_for_a_terminal_gives_each_action_its_verdict_and_reason(graph):
    made = Made()
    made.build(make_graph(rate=3e-5))
    console = a_terminal(120)
    plan_table(made.plan(graph), console)
    lines = [squeezed(line) for line in shown(console).splitlines()]
    assert "• hit base recorded" in lines
    assert "▸ run vector:math changed: params.learning_rate: 3e-05 → 2e-05" in lines
    assert "◦ pending model depends on vector:math" in lines
    assert lines[-1] == "1 action to run, 3 depend on what they make, 4 recorded"


def test_a_plan_for_a_log_is_one_whole_line_an_action():
    names = ("math", LONG)
    console = a_log(40)
    plan_table(Made().plan(make_graph(names)), console)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == len(make_graph(names).actions) + 1
    assert any(line.endswith(f"depends on base, vector:math, vector:{LONG}") for line in lines)


def test_many_recorded_actions_fold_into_a_count(graph):
    made = Made()
    made.build(make_graph(rate=3e-5))
    console = a_log()
    plan_table(made.plan(graph), console, fold=True)
    assert "recorded" not in console.file.getvalue().splitlines()[0]
    assert "4 recorded" in console.file.getvalue()


def test_a_plan_with_nothing_due_is_one_line(graph):
    made = Made()
    made.build(graph)
    console = a_terminal()
    plan_table(made.plan(graph), console, fold=True)
    assert shown(console).splitlines() == ["✓ up to date: 8 actions recorded"]


@pytest.mark.parametrize("width", [40, 80, 140])
def test_nothing_is_wider_than_the_terminal(width):
    names = ("math", LONG)
    graph, records, results = sample(names)
    console = a_terminal(width)
    plan_table(Made().plan(graph), console)
    closing_lines(outcome_of(graph, records, dict.fromkeys(graph.actions, Done.RAN)), results, None, console)
    assert max(cell_len(line) for line in shown(console).splitlines()) <= width


def test_a_long_name_is_cut_in_the_middle():
    assert shorten("eval:composed:math_words", 11) == "eval:…words"
    assert shorten("model", 11) == "model"


# Following a build


def follow(console, graph, *calls, listener=PlainListener):
    with listener(console) as following:
        following.build_started(Made().plan(graph))
        for name, *arguments in calls:
            getattr(following, name)(*arguments)
    return following


def started(graph, name):
    return "action_started", decide(graph.actions[name], {}, Made(), History())


@pytest.mark.parametrize("made", [LiveListener, PlainListener])
def test_the_newest_validation_loss_stands_beside_that_of_the_steps(graph, made):
    vector = graph.actions["vector:math"]
    console = a_terminal(120)
    with made(console) as following:
        following.build_started(Made().plan(graph))
        following.action_started(decide(vector, {}, Made(), History()))
        for done, more in ((1, {"loss": 2.5}), (1, {"validation_loss": 1.75}), (2, {"loss": 2.25})):
            following.action_event(vector, event(done, 4, 1000.0 + 10 * done, **more))
        if made is LiveListener:
            following._live.refresh()
        assert "loss 2.250 val 1.750" in squeezed(shown(console))
        following.action_ended(Result(vector, Done.RAN, 4.0))
    assert "loss 2.250 val 1.750" in squeezed(shown(console))


def test_a_log_shows_progress_at_each_tenth_and_no_control_characters(graph):
    vector = graph.actions["vector:math"]
    events = [("action_event", vector, event(i, 400, 1000.0 + i / 2, loss=2.0)) for i in range(401)]
    console = a_log()
    follow(
        console,
        graph,
        started(graph, "vector:math"),
        *events,
        ("action_ended", Result(vector, Done.RAN, 400.0)),
    )
    text = console.file.getvalue()
    assert re.findall(r"(\d+)%", text) == ["10", "20", "30", "40", "50", "60", "70", "80", "90", "100"]
    assert "200/400 steps  loss 2.000  1m 40s left" in text
    assert not set(text) & {chr(i) for i in range(32) if chr(i) != "\n"}


def test_a_slow_action_is_heard_of_every_half_minute(graph):
    vector = graph.actions["vector:math"]
    events = [("action_event", vector, event(i, 10000, 1000.0 + i)) for i in range(100)]
    console = a_log()
    follow(console, graph, *events)
    assert console.file.getvalue().count("steps") == 3


def test_a_quick_action_is_not_heard_of_at_all(graph):
    vector = graph.actions["vector:math"]
    events = [("action_event", vector, event(i, 10, 1000.0 + i / 10)) for i in range(11)]
    console = a_log()
    follow(console, graph, *events)
    assert "steps" not in console.file.getvalue()


@pytest.mark.parametrize("listener", [PlainListener, LiveListener])
def test_an_ended_action_keeps_its_time_its_last_figures_and_its_note(graph, listener):
    vector = graph.actions["vector:math"]
    last = event(40, 40, 1e9, loss=1.5, tokens_per_second=185.3, memory=3.1e9)
    ended = Result(vector, Done.RAN, 130.0, note="resumed from step 4")
    console = a_terminal(120)
    calls = (started(graph, "vector:math"), ("action_event", vector, last), ("action_ended", ended))
    follow(console, graph, *calls, listener=listener)
    line = next(line for line in shown(console).splitlines() if "✓ vector:math" in line)
    assert squeezed(line).endswith("✓ vector:math 2m 10s loss 1.500 185 tok/s 3.1 GB resumed from step 4")


def test_an_ended_training_has_the_figures_of_the_whole_run_and_not_of_its_last_moment(graph):
    vector = graph.actions["vector:math"]
    told = {
        "device_seconds": 10.0, "tokens": {"seen": 1200}, "peak_memory": 4.5e9,
        "validation": {"kept_step": 20, "lowest": {"step": 20, "loss": 1.25}},
    }  # fmt: skip
    record = Made(provenance={"vector:math": told}).build(graph)["vector:math"]
    events = (
        event(40, 40, 1e9, loss=1.5, tokens_per_second=9000.0, memory=3.1e9),
        event(40, 40, 1e9 + 1, validation_loss=1.75),
    )
    console = a_log()
    said = [("action_event", vector, one) for one in events]
    ended = ("action_ended", Result(vector, Done.RAN, 12.0, record=record))
    follow(console, graph, started(graph, "vector:math"), *said, ended)
    assert "12s      loss 1.500  val 1.250  120 tok/s  4.5 GB" in console.file.getvalue()


@pytest.mark.parametrize("listener", [PlainListener, LiveListener])
def test_a_failure_says_what_where_and_how_to_mend_it(graph, listener):
    error = TrainingError("the loss is NaN", where="step 12", hint="lower learning_rate")
    console = a_terminal()
    follow(console, graph, ("action_ended", Result(graph.actions["vector:math"], Done.FAILED, 12.0, error=error)),
           listener=listener)  # fmt: skip
    text = squeezed(shown(console))
    assert "✗ vector:math failed after 12s step 12: the loss is NaN hint: lower learning_rate" in text


@pytest.mark.parametrize("kind", ["note", "warning"])
def test_what_an_action_says_is_shown_once(graph, kind):
    vector = graph.actions["vector:math"]
    console = a_log()
    said = ("action_event", vector, {"event": kind, "message": "rows were dropped"})
    follow(console, graph, said, said)
    assert console.file.getvalue().count(f"{kind}: vector:math: rows were dropped") == 1


def test_an_action_that_another_process_runs_is_named_once_with_its_holder(graph):
    vector = graph.actions["vector:math"]
    console = a_log()
    waits = ("action_waits", vector, "process 4711 on gpu-3")
    follow(
        console,
        graph,
        waits,
        waits,
        ("action_ended", Result(vector, Done.HIT, note="built by another process")),
    )
    lines = [squeezed(line) for line in console.file.getvalue().splitlines()]
    assert lines.count("… vector:math waiting: process 4711 on gpu-3") == 1
    assert lines[-1] == "• vector:math built by another process"


def test_a_job_that_waits_again_has_a_live_line_that_says_so_in_place_of_old_figures(graph):
    vector = graph.actions["vector:math"]
    console = a_terminal(100)
    queued = {"event": "queued", "message": "slurm job 4: pending"}

    def live(following):
        console.file.truncate(0)
        following._live.refresh()
        return squeezed(shown(console))

    with LiveListener(console) as following:
        following.build_started(Made().plan(graph))
        following.action_event(vector, queued)
        assert "… vector:math slurm job 4: pending" in live(following)
        following.action_started(decide(vector, {}, Made(), History()))
        following.action_event(vector, event(1, 4, time.time(), loss=2.5))
        assert "1/4 steps" in (text := live(following))
        assert "slurm job" not in text
        following.action_event(vector, queued)  # preempted
        assert "1/4 steps" not in (text := live(following))
        assert "slurm job 4: pending" in text
        for number in range(MOST_WAITING + 2):
            following.action_event(replace(vector, name=f"loss:base:{number}"), queued)
        assert "… and 3 more wait" in (text := live(following))
        assert text.count("slurm job 4") == MOST_WAITING
    console = a_log()
    follow(console, graph, ("action_event", vector, queued))
    assert "slurm job 4" not in console.file.getvalue()


def test_a_worker_says_when_in_which_process_from_where_on_and_what_is_left(graph):
    vector = graph.actions["vector:math"]
    console = a_log()
    following = follow(
        console,
        graph,
        (*started(graph, "vector:math"), 4711),
        ("action_event", vector, {"event": "resumed", "step": 12}),
        ("action_event", vector, {"event": "note", "message": "rows were dropped"}),
        listener=WorkLines,
    )
    counts = {"ran": 3, "recorded": 2, "failed": 0, "left": 0}
    following.ended(counts, 62.0, 0, None)
    following.ended(counts | {"left": 1}, 62.0, 0, None)
    lines = [squeezed(line) for line in console.file.getvalue().splitlines()]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d .+", line) for line in lines)
    assert [line[9:] for line in lines[1:]] == [
        "▸ vector:math started in process 4711",
        "note: vector:math: goes on from step 12 of an earlier run",
        "note: vector:math: rows were dropped",
        "3 ran, 2 recorded; 1m 02s; all is recorded, and `dem build` publishes it",
        "3 ran, 2 recorded, 1 left; 1m 02s",
    ]


def test_actions_that_the_plan_called_recorded_are_not_said_again(graph):
    made = Made()
    made.build(make_graph(rate=3e-5))
    console = a_log()
    with PlainListener(console) as following:
        following.build_started(made.plan(graph))
        following.action_ended(Result(graph.actions["base"], Done.HIT))
        following.action_ended(Result(graph.actions["model"], Done.HIT))
    assert "• base" not in console.file.getvalue()
    assert "• model" in console.file.getvalue()


def test_an_action_that_never_began_is_not_said_to_be_skipped(graph):
    console = a_log()
    follow(console, graph, ("action_ended", Result(graph.actions["model"], Done.SKIPPED, note="needs base")))
    assert "needs base" not in console.file.getvalue()


def test_stopping_is_said(graph):
    console = a_log()
    follow(console, graph, ("stopping",))
    assert "stopping" in console.file.getvalue()


def test_text_of_users_cannot_steer_the_terminal(graph):
    vector = graph.actions["vector:math"]
    console = a_log()
    said = ("action_event", vector, {"event": "warning", "message": HOSTILE})
    error = TrainingError(HOSTILE, where=HOSTILE, hint=HOSTILE)
    follow(console, graph, said, ("action_ended", Result(vector, Done.FAILED, 1.0, error=error)))
    render_error(error, console)
    remaining_warnings(Results(warnings=(("data:x", HOSTILE),)), console)
    text = console.file.getvalue()
    assert "a\\x1b[2Jb\\x07[bold]c[/bold]\\u202ed" in text
    assert not set(text) & set("\x1b\x07\r\u202e")


@pytest.mark.parametrize("width", [50, 80, 140])
def test_the_live_line_has_a_bar_the_loss_the_rate_and_the_time_left_where_they_fit(graph, width):
    vector = graph.actions["vector:math"]
    now = time.time()
    console = a_terminal(width)
    with LiveListener(console) as following:
        following.build_started(Made().plan(graph))
        following.action_started(decide(vector, {}, Made(), History()))
        for done, at in ((0, now - 100), (40, now)):
            more = {"loss": 1.5, "tokens_per_second": 185.0, "memory": 3.1e9}
            following.action_event(vector, event(done, 120, at, **more))
        console.file.truncate(0)
        following._live.refresh()
        text = shown(console)
    line = next(line for line in text.replace("\r", "\n").splitlines() if "33%" in line)
    assert cell_len(line) <= width
    assert "vector:math" in line
    assert "━" in line
    assert re.search(r"3m (19|20)s left", line)
    assert ("loss 1.500" in line) == (width >= 80)
    assert ("185 tok/s" in line) == (width >= 80)
    assert ("40/120 steps" in line and "3.1 GB" in line) == (width >= 140)


def test_live_lines_are_gone_when_the_listener_is_left_by_an_error(graph):
    console = a_terminal()
    with pytest.raises(KeyError):
        follow(
            console,
            graph,
            started(graph, "base"),
            ("action_event", None, FailingEvent()),
            listener=LiveListener,
        )
    hidden, visible = (console.file.getvalue().rindex(s) for s in ("\x1b[?25l", "\x1b[?25h"))
    assert hidden < visible


class FailingEvent(dict):
    def get(self, *_):
        raise KeyError


def test_only_a_real_terminal_gets_live_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as tty, os.fdopen(master):
        assert isinstance(make_listener(Console(file=tty)), LiveListener)
    forced = Console(file=io.StringIO(), force_terminal=True)
    assert not isinstance(make_listener(forced), LiveListener)


# Progress


def test_the_time_left_follows_the_rate_since_the_first_event_of_a_resumed_run():
    progress = Progress()
    progress.update(event(300, 400, 1000.0))
    progress.update(event(310, 400, 1010.0))
    assert progress.seconds_left(1010.0) == pytest.approx(90.0)


def test_a_new_unit_starts_the_rate_again():
    progress = Progress()
    progress.update(event(0, 10, 1000.0))
    progress.update(event(10, 10, 1010.0))
    progress.update(event(0, 50, 1010.0) | {"unit": "rows"})
    assert progress.seconds_left(1010.0) is None
    progress.update(event(10, 50, 1020.0) | {"unit": "rows"})
    assert progress.seconds_left(1020.0) == pytest.approx(40.0)


def test_what_is_all_done_has_no_time_left():
    progress = Progress()
    progress.update(event(0, 10, 1000.0))
    progress.update(event(10, 10, 1010.0))
    assert progress.seconds_left(1010.0) is None


@pytest.mark.parametrize("total", [0, None])
def test_without_a_total_there_is_no_share_and_no_time_left(total):
    progress = Progress()
    progress.update(event(1, total, 1000.0))
    progress.update(event(9, total, 1010.0))
    assert (progress.share, progress.seconds_left(1010.0)) == (None, None)
    assert progress.counted == "9 steps"


# The end


def results_lines(results, gates=(), width=80):
    console = a_terminal(width)
    result_table(results, gates, console)
    return [squeezed(line) for line in shown(console).splitlines()]


def test_base_and_composed_stand_side_by_side_with_errors_and_the_change():
    lines = results_lines(sample()[2])
    assert lines[1:4] == [
        "on metric base composed change",
        "math loss 2.500 ±0.020 2.000 ±0.020 -0.500",
        "arc_easy acc 0.250 ±0.030 0.260 ±0.030 +0.010",
    ]


@pytest.mark.parametrize(("loss", "colour"), [(2.0, "32"), (3.0, "31"), (2.51, "2")])
def test_a_better_loss_is_green_a_worse_one_red_and_noise_dim(loss, colour):
    console = a_terminal()
    result_table(sample(metrics={("composed", "loss:math"): LOSS | {"loss": loss}})[2], [], console)
    assert f"\x1b[{colour}m{loss - 2.5:+.3f}" in console.file.getvalue()


@pytest.mark.parametrize(
    ("loss", "accuracy", "said"),
    [
        (2.51, 0.26, "not clear, zero is in the 95 % interval: math loss, arc_easy acc"),
        (2.0, 0.26, "not clear, zero is in the 95 % interval: arc_easy acc"),
        (2.0, 0.9, "every change has zero outside its 95 % interval"),
    ],
)
def test_a_log_names_the_changes_that_are_not_clear_where_a_terminal_has_colours(loss, accuracy, said):
    log = a_log()
    metrics = {
        ("composed", "loss:math"): LOSS | {"loss": loss},
        ("composed", "arc_easy"): ACC | {"acc": accuracy},
    }
    result_table(sample(metrics=metrics)[2], [], log)
    assert log.file.getvalue().splitlines()[-1] == f"± standard error; {said}"
    assert "coloured" in " ".join(results_lines(sample()[2]))


def test_errors_of_values_without_a_change_are_explained_alone():
    assert results_lines(sample(models=("composed",))[2])[-1] == "± standard error"


@pytest.mark.parametrize("width", [80, 140])
def test_models_that_do_not_fit_follow_in_tables_of_their_own(width):
    models = ("composed", "base", "alone", "interpolation", "mixing", "other")
    lines = results_lines(sample(models=models)[2], width=width)
    heads = [line for line in lines if line.startswith("on metric")]
    assert heads[0].startswith("on metric base composed change alone")
    assert sorted(" ".join(heads).split()) == sorted([*models, "change", *["on", "metric"] * len(heads)])
    assert len(heads) == (2 if width == 80 else 1)


def test_a_model_without_a_base_beside_it_has_no_change():
    assert results_lines(sample(models=("composed",))[2])[1] == "on metric composed"


def test_nothing_evaluated_prints_nothing():
    assert results_lines(Results()) == []


def test_gates_say_what_was_reached_and_what_must_be():
    results = sample(metrics={("composed", "arc_easy"): ACC | {"acc": 0.3}})[2]
    gates = check(
        [Gate(task="arc_easy", metric="acc", min=0.2), Gate(task="arc_easy", metric="acc", min=0.9)], results
    )
    assert results_lines(results, gates)[-2:] == [
        "✓ gate acc on arc_easy: 0.300, at least 0.2",
        "✗ gate acc on arc_easy: 0.300, must be at least 0.9",
    ]


def test_the_last_lines_say_what_was_cached_what_ran_and_where_the_model_is():
    graph, records, results = sample()
    console = a_log(30)
    outcome = outcome_of(graph, records, {"vector:math": Done.RAN, "model": Done.RAN})
    closing_lines(outcome, results, "out/a-rather-long-name/model", console)
    assert [squeezed(line) for line in console.file.getvalue().splitlines()[1:]] == [
        "cached 6",
        "ran 2, 25s of work: vector:math, model",
        f"model out/a-rather-long-name/model sha256 {results.model_digest[:12]}",
    ]


def test_a_model_and_its_report_below_the_users_folder_are_named_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = a_log()
    folder = tmp_path / "out" / "tiny"
    closing_lines(Outcome({}), None, folder / "model", console, folder / "report.html")
    assert console.file.getvalue().splitlines()[-2:] == [
        "model    out/tiny/model",
        "report   out/tiny/report.html",
    ]


def test_an_interrupted_build_says_that_the_next_one_goes_on():
    console = a_log()
    closing_lines(Outcome({}, interrupted=True), None, None, console)
    assert "goes on from here" in console.file.getvalue()


def test_warnings_of_earlier_runs_are_shown_again_unless_they_just_were():
    console = a_log()
    results = Results(warnings=(("data:math", "rows were dropped"), ("model", "rounding")))
    remaining_warnings(results, console, {("data:math", "rows were dropped")})
    assert console.file.getvalue() == "warning: model: rounding\n"


# Errors


def test_an_error_is_what_where_and_how_to_mend_it():
    console = a_log()
    render_error(StoreError("no space is left", where="/cache", hint="free some"), console)
    assert console.file.getvalue() == "error: /cache: no space is left\n  hint:  free some\n"


def test_of_a_recipe_all_problems_are_listed_in_the_order_of_lines():
    console = a_log()
    problems = [
        Problem("a.toml", 9, "train.lr", "unknown key", "learning_rate?"),
        Problem("a.toml", 2, "", "no base"),
    ]
    render_error(RecipeError(problems), console)
    assert console.file.getvalue().splitlines() == [
        "a.toml:2: error: no base",
        "a.toml:9: error: train.lr: unknown key",
        "  hint:  learning_rate?",
        "2 problems",
    ]


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | environment, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_a_terminal_of_another_encoding_gets_question_marks_and_no_crash():
    code = "from dem_build.view.text import make_console; make_console().print('✓ Θ')"
    assert run_python(code, PYTHONIOENCODING="latin-1")[:2] == (0, b"? ?\n")


def test_the_views_import_nothing_that_a_build_with_nothing_to_do_does_not_need():
    views = ", ".join(f"dem_build.view.{name}" for name in ("lines", "plan", "results", "text"))
    unwanted = {"typer", "click", "torch", "transformers", "datasets", "yaml", "rich.live", "rich.table"}
    code = f"import sys, {views}, dem_build.report.card, dem_build.report.summary; print(*sys.modules)"
    status, printed, _ = run_python(code)
    assert status == 0
    assert not unwanted & set(printed.decode().split())


def test_an_interval_of_one_omega_is_not_said_to_be_that_of_the_layers_mean():
    console, layers = a_log(), {"0": 0.9, "1": 0.7}
    tuned = {"math": Tuned(0.8, 0.4, 0.6, layers), "code": Tuned(0.5, 0.4, 0.6)}
    tuning = Tuning("gradient", "gain", tuned, {}, (), 9, 20.0, {})
    say_lines(lines_before_results(Results(found={read_tuning: tuning})), console)
    lines = [squeezed(line) for line in shown(console).splitlines()]
    assert "ω math 0.800 mean of its layers; one ω for all of them: 0.40 to 0.60" in lines
    assert "ω code 0.500 0.40 to 0.60" in lines


def test_candidates_of_one_omega_a_vector_are_not_said_to_be_all_of_a_search_of_layers():
    console, tuned = a_log(), {"math": Tuned(0.8, 0.4, 0.6)}
    tuning = Tuning("grid", "gain", tuned, {}, (), 9, 20.0, {}, layered=True)
    say_lines(lines_before_results(Results(found={read_tuning: tuning})), console)
    assert "9 candidates of one ω a vector, then of one a layer; gain" in shown(console)


@pytest.mark.parametrize(
    "parts",
    [
        ("plain",),
        (("error: ", "bold red"), "what went wrong ", ("dim", "dim")),
        ("a very long line " * 40,),
        ("two\nlines", "  and blanks  "),
        ("[bold]no markup[/] :smile: 12 'x'", ("\x07bell", "")),
        ("",),
    ],
)
def test_a_log_gets_what_rich_would_write_without_colours(parts):
    ours, theirs = a_log(), a_log()
    say(ours, *parts)
    theirs.print(Text.assemble(*parts), soft_wrap=True)
    assert ours.file.getvalue() == theirs.file.getvalue()
