"""TOML → a strict, frozen model of what to build; all the mistakes of a file at once, with their lines."""

from dem_build.paths import is_local, project_folder
from dem_build.recipe.load import load_recipe, read_recipe
from dem_build.recipe.machine_file import cache_folder, load_machine, remotes_of, work_folder
from dem_build.recipe.schema import Baseline, DatasetPart, Recipe, Source, SplitName
from dem_build.recipe.sections import Analysis, Evaluate, Gate, Task, Train, Tune

__all__ = [
    "Analysis",
    "Baseline",
    "DatasetPart",
    "Evaluate",
    "Gate",
    "Recipe",
    "Source",
    "SplitName",
    "Task",
    "Train",
    "Tune",
    "cache_folder",
    "is_local",
    "load_machine",
    "load_recipe",
    "project_folder",
    "read_recipe",
    "remotes_of",
    "work_folder",
]
