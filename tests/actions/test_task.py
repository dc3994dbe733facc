"""lm-eval tasks: the numbers are lm-eval's, for local files wherever the working directory is."""

from __future__ import annotations

import functools
import json
import math
import shutil
import sys

import pytest
import torch
from tiny import make_base
from tokenizer_samples import post_process
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from dem_build.action import SourceFile
from dem_build.actions.loss import run as loss
from dem_build.actions.task import run as task
from dem_build.compare.observed import ScoredDocuments, scores
from dem_build.data.arrays import RowsWriter
from dem_build.digest import of_bytes, of_file
from dem_build.errors import DataError, EvaluationError, InterruptedBuildError
from dem_build.lock import tasks
from dem_build.machine import Machine
from dem_build.step import Context, Inputs

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
DOCS = [
    {"question": f"{a} and {a}?", "choices": [str(a), "none of them", str(2 * a)], "answer": a % 3}
    for a in range(11)
]

CHOICE = """
task: pick
include: base/_shared
doc_to_text: "{{text}}"
doc_to_choice: choices
doc_to_target: answer
process_docs: !function helpers.ask
"""
SHARED = """
dataset_path: json
dataset_kwargs: {data_files: {test: ../data/docs.jsonl}}
output_type: multiple_choice
test_split: test
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
GENERATE = """
task: say
dataset_path: json
dataset_kwargs: {data_dir: ../data, data_files: [docs.jsonl]}
output_type: generate_until
test_split: train
doc_to_text: question
doc_to_target: "{{choices[0]}}"
generation_kwargs: {max_gen_toks: 6, until: ["\\n"]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - {name: never, filter: [{function: regex, regex_pattern: "never", fallback: "0"}, {function: take_first}]}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("task") / "base", dtype="float32", chat_template=CHAT)


@pytest.fixture
def folder(tmp_path):
    tasks_folder = tmp_path / "recipe" / "tasks"
    (tasks_folder / "base").mkdir(parents=True)
    (tmp_path / "recipe" / "data").mkdir()
    (tasks_folder / "pick.yaml").write_text(CHOICE)
    (tasks_folder / "base" / "_shared").write_text(SHARED)
    (tasks_folder / "say.yaml").write_text(GENERATE)
    (tasks_folder / "helpers.py").write_text(
        "from wording import PREFIX\n\n"
        "def ask(docs):\n    return docs.map(lambda d: {'text': PREFIX + d['question']})\n"
    )
    (tasks_folder / "wording.py").write_text("PREFIX = 'Q: '\n")
    write_docs(tasks_folder, DOCS)
    return tasks_folder


def write_docs(folder, docs):
    (folder.parent / "data" / "docs.jsonl").write_text("".join(json.dumps(d) + "\n" for d in docs))


def inputs_of(base, closure=None, generation=None, folder=None):
    config = base / "generation_config.json"
    if generation is not None:
        config = folder / "generation_config"
        config.write_text(json.dumps(generation))
    paths = {
        "model/weights": base,
        "model/config": base / "config.json",
        "model/tokenizer": base,
        "model/generation_config": config,
    }
    files = closure.files if closure else ()
    sources = tuple(SourceFile(tag, of_file(path), path) for tag, path in files)
    return Inputs(paths, {"model/weights": "w", "model/config": "c"}, sources=sources)


def params_of(name, **more):
    return {
        "task": name,
        "num_fewshot": None,
        "limit": None,
        "apply_chat_template": False,
        "dtype": "float32",
        "lm_eval": tasks.lm_eval_version(),
        "dataset_revision": None,
    } | more


def context_of(folder, **more):
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    return Context(work=work, out=work / "out", machine=Machine(eval_batch_size=4), **more)


def evaluate(base, folder, name, run_folder, context=None, generation=None, **more):
    """Return metrics, samples and provenance of a task."""
    context = context or context_of(run_folder)
    inputs = inputs_of(base, tasks.find_task(name, folder), generation, run_folder)
    provenance = task.run(inputs, params_of(name, **more), context)
    samples = [json.loads(line) for line in (context.out / "samples").read_text().splitlines()]
    return json.loads((context.out / "metrics").read_bytes()), samples, provenance


@functools.cache
def loaded(base):
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64), AutoTokenizer.from_pretrained(
        base
    )


@torch.inference_mode()
def log_likelihood(base, prompt, answer):
    model, tokenizer = loaded(base)
    start, ids = len(tokenizer(prompt).input_ids), tokenizer(prompt + answer).input_ids
    logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logp[i - 1, ids[i]].item() for i in range(start, len(ids)))


def best(base, prompt, choices, delimiter=" "):
    scores = [log_likelihood(base, prompt, delimiter + c) for c in choices]
    return scores.index(max(scores))


def test_accuracy_is_an_independent_count_wherever_one_stands(base, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics, samples, provenance = evaluate(base, folder, "pick", tmp_path)
    right = [best(base, "Q: " + d["question"], d["choices"]) == d["answer"] for d in DOCS]
    accuracy = sum(right) / len(right)
    assert 0 < accuracy < 1
    stderr = math.sqrt(accuracy * (1 - accuracy) / (len(DOCS) - 1))
    assert metrics == {"acc": accuracy, "acc_stderr": pytest.approx(stderr), "samples": len(DOCS)}
    assert [bool(s["metrics"]["acc"]) for s in samples] == right
    assert [s["doc"]["question"] for s in samples] == [d["question"] for d in DOCS]
    assert samples[0]["prompt"] == "Q: 0 and 0?"
    assert provenance["samples"] == len(DOCS)
    assert provenance["lm_eval"] == tasks.lm_eval_version()
    assert provenance["attn_implementation"] == "sdpa"


def test_answers_are_generated_greedily_whatever_the_generation_config_says(base, folder, tmp_path):
    generation = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 1, "eos_token_id": 2}
    _, samples, _ = evaluate(base, folder, "say", tmp_path, generation=generation)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    for sample in (s for s in samples if s["filter"] == "whole"):
        prompt = tokenizer(sample["prompt"], return_tensors="pt")
        config = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=0)
        said = model.generate(**prompt, generation_config=config)[0, prompt.input_ids.shape[1] :]
        assert sample["responses"] == [tokenizer.decode(said, skip_special_tokens=True).split("\n")[0]]


def test_the_first_filter_has_the_plain_name(base, folder, tmp_path):
    write_docs(folder, [d | {"choices": ["0", "", ""]} for d in DOCS])
    metrics, samples, _ = evaluate(base, folder, "say", tmp_path)
    assert metrics["exact_match@never"] == 1
    assert set(metrics) == {
        "exact_match", "exact_match_stderr", "exact_match@never", "exact_match@never_stderr", "samples",
    }  # fmt: skip
    assert metrics["samples"] == len(DOCS)
    assert len(samples) == 2 * len(DOCS)


def test_generation_follows_the_generation_config_else(base, folder, tmp_path):
    """A ban on every token but one is obeyed."""
    only = AutoTokenizer.from_pretrained(base).encode("z")[0]
    generation = {"suppress_tokens": [i for i in range(259) if i != only]}
    _, samples, _ = evaluate(base, folder, "say", tmp_path, generation=generation)
    assert {s["responses"][0] for s in samples if s["filter"] == "whole"} == {"zzzzzz"}


def test_a_limit_takes_the_first_documents(base, folder, tmp_path):
    metrics, samples, _ = evaluate(base, folder, "pick", tmp_path, limit=3)
    assert metrics["samples"] == 3
    assert [s["doc"]["question"] for s in samples] == [d["question"] for d in DOCS[:3]]


def test_the_chat_template_is_applied(base, folder, tmp_path):
    _, samples, _ = evaluate(base, folder, "pick", tmp_path, apply_chat_template=True)
    assert samples[1]["prompt"] == "[user]Q: 1 and 1?[assistant]"
    right = [
        best(base, f"[user]Q: {d['question']}[assistant]", d["choices"], "") == d["answer"] for d in DOCS
    ]
    assert [bool(s["metrics"]["acc"]) for s in samples] == right


@pytest.mark.parametrize("chat", [True, False])
def test_bos_is_the_templates_in_chats_and_the_tokenizers_elsewhere(base, folder, tmp_path, chat):
    """As in training: this tokenizer adds BOS, and the template writes none."""
    adding = wrapped(base, tmp_path / "base", "<s> $A")
    assert AutoTokenizer.from_pretrained(adding).encode("a")[0] == 1
    _, samples, _ = evaluate(adding, folder, "pick", tmp_path, apply_chat_template=chat)
    start, delimiter = ("", "") if chat else ("<s>", " ")  # the plain tokenizer reads <s> as BOS
    for sample in samples:
        choices = sample["doc"]["choices"]
        scores = [log_likelihood(base, start + sample["prompt"], delimiter + c) for c in choices]
        assert [score for score, _ in sample["responses"]] == pytest.approx(scores, abs=1e-3)


def test_a_base_without_a_chat_template_is_refused(tiny_base, folder, tmp_path):
    with pytest.raises(EvaluationError, match="no chat template"):
        evaluate(tiny_base, folder, "pick", tmp_path, apply_chat_template=True)


@pytest.mark.parametrize(
    "splits",
    [
        "test_split: test",
        "validation_split: test",
        "validation_split: test\nfewshot_split: test",
        "validation_split: test\nfewshot_config: {split: test}",
        "training_split: test\ntest_split: test",
        "validation_split: test\ntest_split: test",
        "test_split: test\nfewshot_config: {sampler: first_n}",
    ],
    ids=["test", "validation", "named", "configured", "training", "both", "first"],
)
def test_no_document_is_its_own_example(base, folder, tmp_path, splits):
    shared = folder / "base" / "_shared"
    shared.write_text(shared.read_text().replace("test_split: test", splits))
    _, samples, provenance = evaluate(base, folder, "pick", tmp_path, num_fewshot=4)
    assert provenance["num_fewshot"] == 4
    for sample in samples:
        asked = [line for line in sample["prompt"].split("Q: ") if line]
        assert len(asked) == 5
        assert sum(line.startswith(sample["doc"]["question"]) for line in asked) == 1


def test_a_task_that_is_zero_shot_on_purpose_is_not_given_examples(base, folder, tmp_path):
    with (folder / "pick.yaml").open("a") as file:
        file.write("num_fewshot: 0\n")
    with pytest.raises(EvaluationError, match="num_fewshot = 0 on purpose"):
        evaluate(base, folder, "pick", tmp_path, num_fewshot=2)


def test_the_same_task_gives_the_same_bytes(base, folder, tmp_path):
    written = []
    for name in ("once", "again"):
        evaluate(base, folder, "pick", tmp_path / name, num_fewshot=2)
        out = tmp_path / name / "work" / "out"
        written.append([(out / part).read_bytes() for part in ("metrics", "samples")])
    assert written[0] == written[1]


def test_a_worker_forgets_one_tasks_python_and_data_before_the_next(base, folder, tmp_path):
    """Same names, same folder, same second: nothing of the first run is seen by the second."""
    path, modules = list(sys.path), set(sys.modules)
    context = context_of(tmp_path / "first")
    evaluate(base, folder, "pick", tmp_path, context=context)
    (folder / "wording.py").write_text("PREFIX = 'W: '\n")
    write_docs(folder, DOCS[:5])
    second = context_of(tmp_path / "second", resident=context.resident)
    metrics, samples, _ = evaluate(base, folder, "pick", tmp_path, context=second)
    assert metrics["samples"] == 5
    assert samples[0]["prompt"].startswith("W: ")
    assert sys.path == path
    assert not {"helpers", "wording"} & (set(sys.modules) - modules)


def test_loss_and_task_share_a_model_and_leave_it_as_it_was(base, folder, tmp_path):
    """After the first, the weights are gone from the disk: what is in memory serves all, in either order."""
    rows = tmp_path / "rows"
    with RowsWriter(tmp_path / "spool") as writer:
        ids = torch.arange(3, 60).numpy().astype("int32")
        writer.append(ids, ids, b"0" * 32)
        writer.save(rows)
    closure, generation = tasks.find_task("say", folder), {"eos_token_id": 2}

    def measure(context, name, weights):
        inputs = inputs_of(base, closure, generation, tmp_path)
        inputs = Inputs(
            {**inputs.paths, "model/weights": weights, "data/rows": rows}, inputs.digests, (), inputs.sources
        )
        loss.run(inputs, {"dtype": "float32"}, context) if name == "loss" else task.run(
            inputs, params_of(name), context
        )
        return {file.name: file.read_bytes() for file in context.out.iterdir()}

    one, other = context_of(tmp_path / "one"), context_of(tmp_path / "other")
    first = [
        measure(one, "loss", base),
        measure(one, "say", tmp_path / "gone"),
        measure(one, "loss", tmp_path / "gone"),
    ]
    assert first[0]["metrics"] == first[2]["metrics"]
    assert measure(other, "say", base)["samples"] == first[1]["samples"]
    assert measure(other, "loss", tmp_path / "gone")["metrics"] == first[0]["metrics"]


@pytest.mark.parametrize(
    "source",
    [
        "dataset_path: csv\ndataset_kwargs: {data_dir: rows}",
        "dataset_path: csv\ndataset_kwargs: {data_dir: rows, data_files: [{split: train, path: '*.csv'}]}",
        "dataset_path: rows",
        "dataset_path: ./rows",
    ],
)
def test_data_may_be_a_folder_beside_the_task_file(base, folder, tmp_path, source):
    (folder / "rows").mkdir()
    (folder / "rows" / "some.csv").write_text("question,answer\n1?,1\n2?,2\n")
    rest = GENERATE.split("output_type", 1)[1].replace('"{{choices[0]}}"', "answer")
    (folder / "say.yaml").write_text(f"task: say\n{source}\noutput_type{rest}")
    _, samples, _ = evaluate(base, folder, "say", tmp_path)
    assert [s["doc"]["question"] for s in samples if s["filter"] == "whole"] == ["1?", "2?"]


def test_a_file_that_is_not_in_the_closure_is_not_there(base, folder, tmp_path):
    (folder / "secret.txt").write_text("x")
    (folder / "wording.py").write_text(
        "from pathlib import Path\nPREFIX = Path(__file__).with_name('secret.txt').read_text()\n"
    )
    with pytest.raises(EvaluationError, match=r"FileNotFoundError.*secret\.txt"):
        evaluate(base, folder, "pick", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("doc_to_choice: choices", 'doc_to_choice: "{{ missing.field }}"', "missing"),
        ("doc_to_target: answer", "doc_to_target: nowhere\noutput_type: nothing", "invalid output_type"),
        ("process_docs: !function helpers.ask", "process_docs: !function helpers.gone", "gone"),
    ],
)
def test_a_task_that_cannot_run_is_one_error_that_names_it(base, folder, tmp_path, old, new, said):
    (folder / "pick.yaml").write_text(CHOICE.replace(old, new))
    with pytest.raises(EvaluationError, match=said) as caught:
        evaluate(base, folder, "pick", tmp_path)
    assert caught.value.where == "pick"


def test_a_task_locked_to_another_lm_eval_is_refused(base, folder, tmp_path):
    with pytest.raises(EvaluationError, match=r"locked to lm-eval 0\.0\.1"):
        evaluate(base, folder, "pick", tmp_path, lm_eval="0.0.1")


def test_it_stops_between_batches(base, folder, tmp_path):
    with pytest.raises(InterruptedBuildError):
        evaluate(base, folder, "pick", tmp_path, context=context_of(tmp_path, stopping=lambda: True))


@pytest.mark.parametrize(("name", "long"), [("pick", 3), ("say", 1)])
def test_prompts_that_lm_eval_cuts_are_said(base, folder, tmp_path, name, long):
    write_docs(folder, [DOCS[0] | {"question": "x" * 300}, *DOCS[1:]])
    evaluate(base, folder, name, tmp_path)
    requests = len(DOCS) * long  # three choices a document, or one answer
    events = [json.loads(line) for line in (tmp_path / "work" / "events.jsonl").read_text().splitlines()]
    (said,) = [e["message"] for e in events if e["event"] == "warning"]
    assert said.startswith(f"{long} of {requests} requests do not fit in the 256 tokens that the model takes")


def test_nothing_is_said_of_prompts_that_fit(base, folder, tmp_path):
    evaluate(base, folder, "pick", tmp_path)
    assert "warning" not in (tmp_path / "work" / "events.jsonl").read_text()


def test_progress_counts_requests(base, folder, tmp_path):
    evaluate(base, folder, "pick", tmp_path)
    events = [json.loads(line) for line in (tmp_path / "work" / "events.jsonl").read_text().splitlines()]
    done = [e["done"] for e in events]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 3 * len(DOCS))


def wrapped(base, folder, single):
    """Copy a base, and let its tokenizer put `<s>` or `</s>` around each text."""
    copy = shutil.copytree(base, folder)
    post_process(copy, single)
    return copy


PAGES = ["one two three", "<s>spelled out", "x" * 300, "naïve\n\n12 and more words", ""]
ROLLING = """
task: roll
dataset_path: json
dataset_kwargs: {data_files: {test: ../data/pages.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}]
"""


@torch.inference_mode()
def score(base, ids, given=1):
    """Return the log-likelihood of ids after the first `given`, in float64, all in one pass where they fit."""
    model, _ = loaded(base)
    logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logp[i - 1, ids[i]].item() for i in range(given, len(ids)))


@pytest.mark.parametrize("single", ["$A", "<s> $A", "<s> $A </s>"], ids=["nothing", "bos", "both"])
def test_a_rolling_likelihood_has_bos_once_and_does_not_score_it(base, folder, tmp_path, single):
    adding = wrapped(base, tmp_path / "base", single)
    (folder / "roll.yaml").write_text(ROLLING)
    lines = "".join(json.dumps({"page": page}) + "\n" for page in PAGES)
    (folder.parent / "data" / "pages.jsonl").write_text(lines)
    metrics, samples, _ = evaluate(adding, folder, "roll", tmp_path)
    window = 256  # what the tiny base takes
    total = 0.0
    for page, sample in zip(PAGES, samples, strict=True):
        ids = loaded(base)[1](page, add_special_tokens=False).input_ids
        ids = ids[1:] if ids[:1] == [1] else ids
        expected = score(base, [1, *ids[:window]])
        if len(ids) > window:
            expected += score(base, ids[-window - 1 :], given=2 * window + 1 - len(ids))
        assert sample["responses"][0] == pytest.approx(expected, abs=2e-3)
        total += expected
    size = sum(len(page.encode()) for page in PAGES)
    assert metrics["bits_per_byte"] == pytest.approx(-total / size / math.log(2), rel=1e-5)


def test_no_prompt_ends_in_eos_and_answers_are_scored_right_after_it(base, folder, tmp_path):
    ending = wrapped(base, tmp_path / "base", "$A </s>")
    plain = evaluate(base, folder, "pick", tmp_path / "plain")
    assert evaluate(ending, folder, "pick", tmp_path / "ending")[:2] == plain[:2]


@pytest.mark.parametrize("chat", [True, False])
def test_generation_starts_where_a_prompt_ends(base, folder, tmp_path, chat):
    both = wrapped(base, tmp_path / "base", "<s> $A </s>")
    _, samples, _ = evaluate(both, folder, "say", tmp_path / "run", apply_chat_template=chat)
    model, tokenizer = loaded(base)
    for sample in (s for s in samples if s["filter"] == "whole"):
        ids = tokenizer(("" if chat else "<s>") + sample["prompt"], return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=0)
        text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).split("\n")[0]
        assert sample["responses"][0] == text.split("</s>")[0]


@pytest.mark.parametrize("single", ["$A", "<s> $A </s>"])
def test_an_answer_without_a_question_comes_after_bos(base, folder, tmp_path, single):
    adding = wrapped(base, tmp_path / "base", single)
    edit_task = (folder / "pick.yaml").read_text().replace('doc_to_text: "{{text}}"', 'doc_to_text: ""')
    (folder / "pick.yaml").write_text(edit_task + 'target_delimiter: ""\n')
    _, samples, _ = evaluate(adding, folder, "pick", tmp_path / "run")
    for sample in samples:
        wanted = [score(base, [1, *loaded(base)[1](c).input_ids]) for c in sample["doc"]["choices"]]
        assert [found for found, _ in sample["responses"]] == pytest.approx(wanted, abs=1e-3)


REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
SKIPS = CHAT.replace("%}[{{ m", "if m.role != 'system' %}[{{ m")


@pytest.mark.parametrize(("template", "lost"), [(REFUSES, True), (SKIPS, True), (CHAT, False)])
def test_a_description_that_the_template_leaves_out_is_said(base, folder, tmp_path, template, lost):
    described = shutil.copytree(base, tmp_path / "base")
    (described / "chat_template.jinja").write_text(template)
    (folder / "pick.yaml").write_text((folder / "pick.yaml").read_text() + "description: Choose well.\n")
    _, samples, _ = evaluate(described, folder, "pick", tmp_path / "run", apply_chat_template=True)
    events = (tmp_path / "run" / "work" / "events.jsonl").read_text()
    assert ("leaves the task's description out of 11 prompts" in events) == lost
    assert all(("Choose well." in sample["prompt"]) != lost for sample in samples)


def test_of_several_templates_prompts_are_in_the_default_one(base, folder, tmp_path):
    named = shutil.copytree(base, tmp_path / "base")
    (named / "additional_chat_templates").mkdir()
    (named / "additional_chat_templates" / "tool_use.jinja").write_text("other")
    plain = evaluate(base, folder, "pick", tmp_path / "plain", apply_chat_template=True)
    assert evaluate(named, folder, "pick", tmp_path / "named", apply_chat_template=True)[:2] == plain[:2]
    (named / "chat_template.jinja").rename(named / "additional_chat_templates" / "chat.jinja")
    with pytest.raises(
        DataError, match=r"several chat templates \(chat, tool_use\), and none is called default"
    ):
        evaluate(named, folder, "pick", tmp_path / "none", apply_chat_template=True)
    assert (
        evaluate(named, folder, "pick", tmp_path / "bare")[0]
        == evaluate(base, folder, "pick", tmp_path / "b")[0]
    )


@pytest.mark.parametrize("name", ["pick", "say"])
def test_each_document_has_lm_evals_hashes_and_the_means_of_documents_are_the_metrics(
    base, folder, tmp_path, name
):
    """Two builds find the documents that they share by them, and compare these alone."""
    write_docs(folder, [*DOCS, DOCS[0]])
    metrics, samples, _ = evaluate(base, folder, name, tmp_path)
    asked = len({s["filter"] for s in samples})
    for sample in samples:
        assert sample["prompt_hash"] == of_bytes(sample["prompt"].encode())
        assert sample["target_hash"] == of_bytes(str(sample["target"]).encode())
    assert len({s["doc_hash"] for s in samples}) == len(DOCS)  # the one that is there twice has one hash
    data = (tmp_path / "work" / "out" / "samples").read_bytes()
    documents = ScoredDocuments.of_samples(data)
    assert documents.hashed
    told = [key for key in metrics if key != "samples" and not key.endswith("_stderr")]
    assert len(told) == asked
    for key in told:
        metric, chosen = documents.of_metric(key)
        found = scores(chosen, metric, by_place=False, hashed=True)
        assert len(found) == metrics["samples"] == len(DOCS) + 1
        assert math.fsum(o.value for o in found) / len(found) == pytest.approx(metrics[key])
