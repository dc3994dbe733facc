"""Calls, recipes and data that are refused before an action runs."""

from __future__ import annotations

from error_cases import ROWS, Call, write

__all__ = ["CALLS"]

CALLS = (
    # packages
    Call(
        "An optimizer whose package is not installed",
        "build recipe.toml",
        (
            'error: optim = "adamw_8bit" of vector:add needs the package bitsandbytes, which is not installed\n'
            "  hint:  pip install bitsandbytes"
        ),
        replaced=("max_steps = 2", 'max_steps = 2\noptim = "adamw_8bit"'),
        absent="bitsandbytes",
    ),
    Call(
        "A tracker whose package is not installed",
        "build recipe.toml",
        (
            'error: report_to = ["tensorboard"] needs the package tensorboard, which is not installed\n'
            "  hint:  pip install tensorboard"
        ),
        setup=write("machine.toml", 'report_to = ["tensorboard"]\n'),
        absent="tensorboard",
    ),
    Call(
        "Adapters, and several processes for a training",
        "build recipe.toml",
        (
            'error: vector:add: method = "lora" is not trained by several processes, and here are 2\n'
            "  hint:  set gpus_per_action = 1 and processes_per_action = 1 in the machine file, or train all weights "
            "with adamw_torch_fused, uncompiled and without validation"
        ),
        replaced=("max_steps = 2", 'max_steps = 2\nmethod = "lora"'),
        setup=write("machine.toml", "processes_per_action = 2\n"),
    ),
    Call(
        "An engine that is not there",
        "build recipe.toml",
        (
            "error: engine: no engine is called 'pbs'\n"
            "  hint:  there are local, slurm; a package may bring others (entry point `dem_build.schedulers`)"
        ),
        setup=write("machine.toml", 'engine = "pbs"\n'),
    ),
    Call(
        "Slurm without submitit",
        "build recipe.toml",
        (
            "error: the engine `slurm` needs submitit, which is not installed\n"
            "  hint:  pip install 'dem-build[slurm]'"
        ),
        setup=write("machine.toml", 'engine = "slurm"\n'),
        absent="submitit",
    ),
    # the call
    Call(
        "No recipe of that name",
        "build absent.toml",
        ("absent.toml: error: there is no such recipe\n  hint:  the TOML files there are recipe.toml"),
    ),
    Call(
        "A folder is named instead of a recipe",
        "build data",
        ("data: error: is a folder, not a recipe\n  hint:  name its file"),
    ),
    Call(
        "An unknown option",
        "build recipe.toml --lokced",
        (
            "Usage: dem build [OPTIONS] RECIPE... [-- ACTION...]\n"
            "Try 'dem build --help' for help.\n"
            "\n"
            "Error: No such option '--lokced'. Did you mean '--locked'?"
        ),
    ),
    Call(
        "A worker is to end after no span of time",
        "work recipe.toml --until-idle ten",
        ("error: --until-idle: 'ten' is no span of time\n  hint:  a number and s, m, h, d or w: 12h, 30d"),
    ),
    Call(
        "A worker's recipe names a base on a hub that no lock pins",
        "work recipe.toml",
        (
            "error: recipe.lock: not what is locked: base\n"
            "  hint:  `dem lock recipe.toml` accepts what is there now; or put back what was locked"
        ),
        status=4,
        replaced=('model = "base"', 'model = "org/model"'),
    ),
    Call(
        "No recipe is named",
        "build",
        (
            "Usage: dem build [OPTIONS] RECIPE... [-- ACTION...]\n"
            "Try 'dem build --help' for help.\n"
            "\n"
            "Error: Missing argument 'RECIPE... [-- ACTION...]'.\n"
            "Hint: dem build recipe.toml"
        ),
    ),
    Call(
        "An unknown command",
        "biuld recipe.toml",
        (
            "Usage: dem [OPTIONS] COMMAND [ARGS]...\n"
            "Try 'dem --help' for help.\n"
            "\n"
            "Error: No such command 'biuld'. Did you mean 'build'?"
        ),
    ),
    Call(
        "A command of another tool",
        "status recipe.toml",
        (
            "Usage: dem [OPTIONS] COMMAND [ARGS]...\n"
            "Try 'dem --help' for help.\n"
            "\n"
            "Error: No such command 'status'.\n"
            "Hint: dem plan"
        ),
    ),
    Call(
        "A dataset is named, and no recipe",
        "data add",
        (
            "Usage: dem data [OPTIONS] RECIPE NAME\n"
            "Try 'dem data --help' for help.\n"
            "\n"
            "Error: Missing argument 'NAME'.\n"
            "Hint: dem data recipe.toml add"
        ),
    ),
    Call(
        "A recipe is named, and no action",
        "why recipe.toml",
        (
            "Usage: dem why [OPTIONS] RECIPE ACTION\n"
            "Try 'dem why --help' for help.\n"
            "\n"
            "Error: Missing argument 'ACTION'.\n"
            "Hint: `dem plan recipe.toml` lists the actions"
        ),
    ),
    Call(
        "Zero jobs",
        "build recipe.toml --jobs 0",
        (
            "Usage: dem build [OPTIONS] RECIPE... [-- ACTION...]\n"
            "Try 'dem build --help' for help.\n"
            "\n"
            "Error: Invalid value for '--jobs': 0 is not in the range x>=1."
        ),
    ),
    Call(
        "An unknown action",
        "build recipe.toml -- vector:ad",
        (
            "error: there is no action 'vector:ad' in this recipe\n"
            "  hint:  did you mean vector:add? `dem plan` lists them all"
        ),
    ),
    Call(
        "An unknown action to rebuild",
        "build recipe.toml --rebuild vector:ad",
        (
            "error: there is no action 'vector:ad' in this recipe\n"
            "  hint:  did you mean vector:add? `dem plan` lists them all"
        ),
    ),
    Call(
        "A pattern that no action matches",
        "build recipe.toml -- los:*",
        (
            "error: no action of this recipe matches 'los:*'\n"
            "  hint:  did you mean loss:* or loss:base:*? `dem plan` lists them all"
        ),
    ),
    Call(
        "Files that a shell made of an unquoted `*`",
        "build recipe.toml -- base data recipe.toml",
        (
            "error: there is no action 'data' in this recipe\n"
            "  hint:  did you mean data:add? `dem plan` lists them all"
        ),
    ),
    Call(
        "A pattern where one action is wanted",
        "why recipe.toml *:add",
        (
            "error: '*:add' matches 4 actions, and one is wanted: data:add, vector:add, loss:composed:add, "
            "loss:base:add\n"
            "  hint:  name one of them"
        ),
    ),
    Call(
        "An unknown action asked about",
        "why recipe.toml vector:ad",
        (
            "error: there is no action 'vector:ad' in this recipe\n"
            "  hint:  did you mean vector:add? `dem plan` lists them all"
        ),
    ),
    Call(
        "A dataset's name where an action's is asked for",
        "why recipe.toml add",
        (
            "error: there is no action 'add' in this recipe\n"
            "  hint:  did you mean data:add or vector:add? `dem plan` lists them all"
        ),
    ),
    Call(
        "An action without the `--` before it",
        "build recipe.toml vector:add",
        (
            "vector:add: error: there is no such recipe\n"
            "  hint:  an action is named after `--`: dem build RECIPE -- ACTION"
        ),
    ),
    Call(
        "Of two recipes, the second has a mistake",
        "build recipe.toml other.toml",
        ('other.toml:2: error: train.max_steps: must be a whole number, not "2"'),
        setup=write("other.toml", '[train]\nmax_steps = "2"\n[base]\nmodel = "base"\n[datasets]\n'),
    ),
    Call(
        "An unknown dataset is to be shown",
        "data recipe.toml vector:add",
        (
            "error: recipe.toml: there is no dataset, probe or mixture 'vector:add'\n"
            "  hint:  the recipe has add"
        ),
    ),
    Call(
        "`--set` without a value",
        "build recipe.toml --set train.seed",
        "--set train.seed: error: must be KEY=VALUE, such as train.learning_rate=1e-5",
    ),
    Call(
        "`--set` of an unknown key",
        "build recipe.toml --set train.sede=1",
        ("--set train.sede=1: error: train.sede: unknown key\n  hint:  did you mean `seed`?"),
    ),
    Call(
        "`--set` of a value of another type",
        "build recipe.toml --set train.seed=many",
        '--set train.seed=many: error: train.seed: must be a whole number, not "many"',
    ),
    Call(
        "`--set` below a value that is no table",
        "build recipe.toml --set base.model.x=1",
        "--set base.model.x=1: error: `base.model` is no table",
    ),
    Call(
        "`--set` of a file that is not there",
        "check recipe.toml --set datasets.add.path=data/ad.jsonl",
        (
            "--set datasets.add.path=data/ad.jsonl: error: datasets.add.path: no file matches `data/ad.jsonl`\n"
            "  hint:  data holds add.jsonl"
        ),
    ),
    Call(
        "An action that was never built is shown",
        "show recipe.toml vector:add",
        ("error: recipe.toml: vector:add was never built\n  hint:  `dem build` builds it"),
    ),
    Call(
        "A model is talked to that is not built",
        "chat recipe.toml",
        (
            "error: recipe.toml: composed cannot be asked: base, vector:add are not built\n"
            "  hint:  `dem build recipe.toml -- base vector:add`; a chat builds nothing"
        ),
    ),
    Call(
        "A model is talked to that the recipe does not have",
        "chat recipe.toml --model ad",
        "error: recipe.toml: there is no model 'ad' in this recipe\n  hint:  did you mean `add`?",
    ),
    Call(
        "An item is to be blamed on a vector before there is a model",
        "blame recipe.toml add 0",
        ("error: recipe.toml: model is not built\n  hint:  `dem build recipe.toml` builds it"),
    ),
    Call(
        "An item is named of what the recipe has no items of",
        "blame recipe.toml ad 0",
        (
            "error: recipe.toml: there is no task, and no dataset or probe with test rows, 'ad' in this recipe\n"
            "  hint:  did you mean `add`?"
        ),
    ),
    Call(
        "A vector of all weights is exported as an adapter, and nothing says how much of it",
        "export recipe.toml vector:add adapter",
        (
            "error: recipe.toml: vector:add is a vector of all weights, and an adapter keeps a part of it\n"
            "  hint:  --rank 64 says how much; --form checkpoint writes base and vector as a model"
        ),
    ),
    Call(
        "What is neither a vector nor a model is exported",
        "export recipe.toml data:add folder",
        (
            "error: recipe.toml: data:add makes neither a vector nor a model\n"
            "  hint:  `dem plan` lists the actions"
        ),
    ),
    Call(
        "A model is exported as an adapter",
        "export recipe.toml model folder --form adapter",
        (
            "error: recipe.toml: model makes no vector\n"
            "  hint:  an adapter is made of one, such as vector:NAME"
        ),
    ),
    Call(
        "An option of another form",
        "export recipe.toml model folder --type q8_0",
        "error: recipe.toml: --type says nothing of model as checkpoint\n  hint:  leave it out",
    ),
    Call(
        "What has not been built is published",
        "publish recipe.toml org/name",
        (
            "error: recipe.toml: something is due: what is published is built first\n"
            "  hint:  `dem build` runs what is due, and judges the gates"
        ),
        4,
    ),
    Call(
        "What is neither a vector nor the composed model is published",
        "publish recipe.toml org/name base",
        (
            "error: recipe.toml: base makes no vector and is not the composed model\n"
            "  hint:  name `model` or a vector:NAME"
        ),
    ),
    Call(
        "A vector of low rank is exported before it was built",
        "export recipe.toml vector:add adapter",
        ("error: recipe.toml: vector:add was never built\n  hint:  `dem build` builds it"),
        replaced=("max_steps = 2", 'max_steps = 2\nmethod = "lora"'),
    ),
    Call("Something is due under `--check`", "plan recipe.toml --check", "", 4),
    # the recipe
    Call(
        "A typo in a key",
        "check recipe.toml",
        ("recipe.toml:5: error: train.max_step: unknown key\n  hint:  did you mean `max_steps`?"),
        replaced=("max_steps", "max_step"),
    ),
    Call(
        "A negative batch size",
        "check recipe.toml",
        "recipe.toml:6: error: train.global_batch_size: must be at least 1, not -4",
        replaced=("batch_size = 4", "batch_size = -4"),
    ),
    Call(
        "A text for a number",
        "check recipe.toml",
        'recipe.toml:5: error: train.max_steps: must be a whole number, not "2"',
        replaced=("max_steps = 2", 'max_steps = "2"'),
    ),
    Call(
        "The recipe is not TOML",
        "check recipe.toml",
        "recipe.toml:11: error: is not TOML: invalid value",
        replaced=("= 0.5", "= "),
    ),
    Call(
        "ω is infinite",
        "check recipe.toml",
        "recipe.toml:11: error: datasets.add.omega: must be a finite number, not inf",
        replaced=("0.5", "inf"),
    ),
    # data that can be found
    Call(
        "A data file that is missing",
        "build recipe.toml",
        (
            "recipe.toml:10: error: datasets.add.path: no file matches `data/ad.jsonl`\n"
            "  hint:  data holds add.jsonl"
        ),
        replaced=("add.jsonl", "ad.jsonl"),
    ),
    Call(
        "A pattern that nothing matches",
        "build recipe.toml",
        (
            "recipe.toml:10: error: datasets.add.path: no file matches `data/*.parquet`\n"
            "  hint:  data holds add.jsonl"
        ),
        replaced=("add.jsonl", "*.parquet"),
    ),
    Call(
        "A folder for data",
        "build recipe.toml",
        (
            "recipe.toml:10: error: datasets.add.path: `data` is a folder\n"
            "  hint:  name its files: data/*.jsonl"
        ),
        replaced=("data/add.jsonl", "data"),
    ),
    Call(
        "Data of a type that dem does not read",
        "build recipe.toml",
        (
            "recipe.toml:10: error: datasets.add.path: `add.xlsx` is of no type that dem reads\n"
            "  hint:  a data file ends in .jsonl, .ndjson, .json, .csv, .parquet"
        ),
        replaced=("add.jsonl", "add.xlsx"),
        setup=write("data/add.xlsx", "PK"),
    ),
    Call(
        "The test file is a copy of the training file",
        "build recipe.toml",
        (
            "recipe.toml:12: error: datasets.add.test: copy.jsonl is also what is trained on for add\n"
            "  hint:  give it rows of its own, or hold out a share such as 0.05"
        ),
        replaced=("test = 0.2", 'test = "data/copy.jsonl"'),
        setup=write("data/copy.jsonl", ROWS),
    ),
    Call(
        "The test file is the training file",
        "check recipe.toml",
        (
            "recipe.toml:12: error: datasets.add.test: add.jsonl is also what is trained on for add\n"
            "  hint:  give it rows of its own, or hold out a share such as 0.05"
        ),
        replaced=("test = 0.2", 'test = "data/add.jsonl"'),
    ),
    Call(
        "A misspelt key, a value of a wrong type, and files that are not there",
        "check recipe.toml",
        (
            'recipe.toml:11: error: datasets.add.omega: must be a number or "tune", not "0.5"\n'
            "recipe.toml:12: error: datasets.add.tset: unknown key\n"
            "  hint:  did you mean `test`?\n"
            "recipe.toml:13: error: datasets.add.test: no file matches `data/test.jsonl`\n"
            "  hint:  data holds add.jsonl\n"
            "recipe.toml:15: error: probes.chat.path: no file matches `chat.jsonl`\n"
            "  hint:  . holds no data file\n"
            "recipe.toml:16: error: probes.chat.los: unknown key\n"
            "  hint:  did you mean `loss`?\n"
            "5 problems"
        ),
        replaced=(
            "omega = 0.5\ntest = 0.2",
            'omega = "0.5"\ntset = 0.2\ntest = "data/test.jsonl"\n[probes.chat]\npath = "chat.jsonl"\nlos = "all"',
        ),
    ),
)
