"""A declarative, recipe-driven build system for models.

    import dem_build

    study = dem_build.load("recipe.toml")
    study.plan()
    study.build()
    study.results.losses

What `__all__` names is public, and what its classes have without an underscore. All else is private: modules of the
package move, and what is in them changes, without notice.
"""

# `dem` begins here, and a build with nothing to do is over before `typing` would be loaded.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from dem_build.errors import (
        ActionError,
        CheckpointError,
        CorruptObjectError,
        DataError,
        DemError,
        EvaluationError,
        GateError,
        LeaseHeldError,
        NotUpToDateError,
        Problem,
        RecipeError,
        RemoteError,
        StoreError,
        TrainingError,
        UsageError,
    )
    from dem_build.study.figures import Figure, Figures
    from dem_build.study.planned import Explanation, PlannedAction, StudyPlan
    from dem_build.study.results import StudyBuild, StudyResults
    from dem_build.study.study import Study, load
    from dem_build.study.weights import StoredModel, StoredVector

__version__ = "0.1.0"

__all__ = [
    "ActionError",
    "CheckpointError",
    "CorruptObjectError",
    "DataError",
    "DemError",
    "EvaluationError",
    "Explanation",
    "Figure",
    "Figures",
    "GateError",
    "LeaseHeldError",
    "NotUpToDateError",
    "PlannedAction",
    "Problem",
    "RecipeError",
    "RemoteError",
    "StoreError",
    "StoredModel",
    "StoredVector",
    "Study",
    "StudyBuild",
    "StudyPlan",
    "StudyResults",
    "TrainingError",
    "UsageError",
    "__version__",
    "load",
]

if not TYPE_CHECKING:
    _STUDY = {
        "figures": ("Figure", "Figures"),
        "planned": ("Explanation", "PlannedAction", "StudyPlan"),
        "results": ("StudyBuild", "StudyResults"),
        "study": ("Study", "load"),
        "weights": ("StoredModel", "StoredVector"),
    }
    _PLACES = {name: f"study.{module}" for module, names in _STUDY.items() for name in names}

    def __getattr__(name: str) -> object:
        """What is public, loaded when it is asked for."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  as above

        return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'errors')}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
