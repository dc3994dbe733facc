"""Bases and tasks that are refused before an action runs."""

from __future__ import annotations

from error_cases import Call, both, config, without, write

__all__ = ["BASES"]

TASK = "task: sums\ndataset_path: json\ndataset_kwargs:\n  data_files: {test: rows.jsonl}\ntest_split: test\n"
WITH_TASK = ("tasks = []", 'tasks = ["sums"]\ninclude_path = "tasks"')
TEMPLATE = ('model = "base"', 'model = "base"\nchat_template = "chat.jinja"')
WRITES = "a template writes `messages`, each with a `role` and a `content` that is text"
GGUF = ('model = "base"', 'model = "base.gguf"')

BASES = (
    # the base
    Call(
        "No base of that name",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: bsae: no such folder or file\n"
            "  hint:  a path starts from the recipe's folder"
        ),
        replaced=('"base"', '"bsae"'),
    ),
    Call(
        "No chat template of that name",
        "check recipe.toml",
        (
            "recipe.toml:3: error: base.chat_template: chat.jinja: no such file\n"
            "  hint:  name a file of Jinja; a path starts from the recipe's folder"
        ),
        replaced=TEMPLATE,
    ),
    Call(
        "The chat template is no Jinja",
        "check recipe.toml",
        (
            "recipe.toml:3: error: base.chat_template: chat.jinja:2: is no Jinja template: unexpected '}', "
            "expected ']'\n"
            "  hint:  mend that line"
        ),
        replaced=TEMPLATE,
        setup=write("chat.jinja", "{% for m in messages %}\n{{ m['content' }}{% endfor %}"),
    ),
    Call(
        "The chat template refuses every conversation",
        "lock recipe.toml",
        (
            "recipe.toml:3: error: base.chat_template: chat.jinja: refuses a question and its answer: no system\n"
            f"  hint:  {WRITES}"
        ),
        replaced=TEMPLATE,
        setup=write(
            "chat.jinja",
            "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}",
        ),
    ),
    Call(
        "The chat template leaves out a turn",
        "build recipe.toml",
        (
            "recipe.toml:3: error: base.chat_template: chat.jinja: leaves out what the assistant says\n"
            f"  hint:  {WRITES}"
        ),
        replaced=TEMPLATE,
        setup=write("chat.jinja", "{{ messages[0]['content'] }}"),
    ),
    Call(
        "The base is a pickle (`.bin`)",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: has its weights in pytorch_model.bin, which dem "
            "does not open\n"
            "  hint:  convert it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        ),
        setup=both(without("base/model.safetensors"), write("base/pytorch_model.bin", b"")),
    ),
    Call(
        "The base has no weights",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: holds neither model.safetensors nor "
            "model.safetensors.index.json\n"
            "  hint:  download the model again, all of its files"
        ),
        setup=without("base/model.safetensors"),
    ),
    Call(
        "The base has no config",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: holds no config.json\n"
            "  hint:  name a folder that save_pretrained wrote"
        ),
        setup=without("base/config.json"),
    ),
    Call(
        "The base's config is no JSON",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base/config.json: is no JSON: Expecting property name "
            "enclosed in double quotes: line 1 column 2 (char 1)\n"
            "  hint:  download the model again, all of its files"
        ),
        setup=write("base/config.json", "{"),
    ),
    Call(
        "The base's config is of no model",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: is no config of a transformers model: it has no "
            "model_type\n"
            "  hint:  name a folder that save_pretrained wrote"
        ),
        setup=write("base/config.json", "{}"),
    ),
    Call(
        "The base has no tokenizer",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: holds no tokenizer\n"
            "  hint:  save it there: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
        ),
        setup=without("base/tokenizer.json"),
    ),
    Call(
        "The base is quantised",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: is a quantised model (gptq): take its float original\n"
            "  hint:  dem composes decoder-only text models with float weights"
        ),
        setup=config(quantization_config={"quant_method": "gptq"}),
    ),
    Call(
        "The base sees",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: is a vision model (llama)\n"
            "  hint:  dem composes decoder-only text models with float weights"
        ),
        setup=config(vision_config={}),
    ),
    Call(
        "The base hears",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: is an audio model (llama)\n"
            "  hint:  dem composes decoder-only text models with float weights"
        ),
        setup=config(audio_config={}),
    ),
    Call(
        "The base is an encoder-decoder",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: is an encoder-decoder model (t5)\n"
            "  hint:  dem composes decoder-only text models with float weights"
        ),
        setup=config(model_type="t5", is_encoder_decoder=True),
    ),
    Call(
        "The base classifies",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: is no causal language model: "
            "LlamaForSequenceClassification\n"
            "  hint:  dem composes decoder-only text models with float weights"
        ),
        setup=config(architectures=["LlamaForSequenceClassification"]),
    ),
    Call(
        "The base is an adapter",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: is an adapter, not a model\n"
            "  hint:  name the model it was trained on"
        ),
        setup=both(without("base/config.json"), write("base/adapter_config.json", "{}")),
    ),
    Call(
        "The folder holds a GGUF file alone",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: holds a GGUF file and no config.json\n"
            "  hint:  name base/q8.gguf"
        ),
        setup=both(without("base/config.json"), write("base/q8.gguf", "GGUF")),
    ),
    Call(
        "A shard of the base is missing",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base: lacks 1 of 2 shards, first model-2.safetensors\n"
            "  hint:  download the model again, all of its files"
        ),
        setup=both(
            without("base/model.safetensors"),
            write("base/model-1.safetensors", b""),
            write(
                "base/model.safetensors.index.json",
                '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
            ),
        ),
    ),
    Call(
        "The index of the shards is damaged",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base/model.safetensors.index.json: is no index of "
            "safetensors shards: it has no weight_map of file names\n"
            "  hint:  download the model again, all of its files"
        ),
        setup=both(
            without("base/model.safetensors"),
            write("base/model.safetensors.index.json", '{"weight_map": ['),
        ),
    ),
    Call(
        "A GGUF that is none",
        "build recipe.toml",
        (
            "recipe.toml:2: error: base.model: base.gguf: is neither a model's folder nor a GGUF file\n"
            "  hint:  name a model's folder, or download the GGUF file again"
        ),
        replaced=GGUF,
        setup=write("base.gguf", "PK\3\4"),
    ),
    # tasks
    Call(
        "An unknown task",
        "build recipe.toml",
        (
            "recipe.toml:15: error: evaluate.tasks: there is no task arc_esy\n"
            "  hint:  did you mean arc_easy or arc_es or arc_eu_easy?"
        ),
        replaced=("tasks = []", 'tasks = ["arc_esy"]'),
    ),
    Call(
        "A group that changes one of its tasks",
        "build recipe.toml",
        (
            "recipe.toml:15: error: evaluate.tasks: tasks/sums.yaml: the task arc_easy in the group sums sets "
            "`doc_to_text`, which dem does not follow\n"
            "  hint:  a task file of your own can `include` it, and say that beside"
        ),
        replaced=WITH_TASK,
        setup=write(
            "tasks/sums.yaml", "group: sums\ntask: [{task: arc_easy, doc_to_text: '{{question}}'}]\n"
        ),
    ),
    Call(
        "No folder of task files",
        "build recipe.toml",
        (
            "recipe.toml:15: error: evaluate.tasks: there is no folder tasks\n"
            "  hint:  include_path is the folder of your task files"
        ),
        replaced=WITH_TASK,
    ),
    Call(
        "A task whose data are missing",
        "build recipe.toml",
        (
            "recipe.toml:15: error: evaluate.tasks: tasks/sums.yaml: names the data rows.jsonl, where "
            "there is no file\n"
            "  hint:  data paths are relative to the folder of the task file"
        ),
        replaced=WITH_TASK,
        setup=write("tasks/sums.yaml", TASK),
    ),
    Call(
        "Two files define one task",
        "build recipe.toml",
        (
            "recipe.toml:15: error: evaluate.tasks: tasks/a.yaml and tasks/b.yaml both define the task sums\n"
            "  hint:  rename one of them"
        ),
        replaced=WITH_TASK,
        setup=both(write("tasks/a.yaml", TASK), write("tasks/b.yaml", TASK)),
    ),
    Call(
        "A task file that is no YAML",
        "build recipe.toml",
        (
            "recipe.toml:15: error: evaluate.tasks: tasks/sums.yaml: cannot be read as a task: while "
            "scanning a simple key\n"
            '  in "<byte string>", line 2, column 1\n'
            "could not find expected ':'\n"
            '  in "<byte string>", line 3, column 1'
        ),
        replaced=WITH_TASK,
        setup=write("tasks/sums.yaml", "task: sums\n{"),
    ),
    Call(
        "A local task without trust in its files",
        "build recipe.toml",
        (
            "error: recipe.toml: eval:composed:sums runs task files, which are code: tasks/sums.yaml\n"
            "  hint:  read them, then add --trust-tasks"
        ),
        replaced=WITH_TASK,
        setup=both(write("tasks/sums.yaml", TASK), write("tasks/rows.jsonl", '{"q": "a"}\n')),
    ),
)
