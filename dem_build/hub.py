"""Names on a hub → commits. The only module of the planning path that may ask a network, and only for a new name."""

from __future__ import annotations

from dem_build.errors import UsageError

__all__ = ["dataset_commit"]


def dataset_commit(name: str, revision: str = "main") -> str:
    """Return the commit that a branch, tag or commit of a hub dataset stands for now.

    Asks the hub at `$HF_ENDPOINT`, with the user's token where there is one.

    Raises:
        UsageError: The hub has no such dataset or revision, or cannot be reached.
    """
    # Imported here: it takes longer than the rest of a plan, which as a rule finds every commit in the lock.
    from huggingface_hub import HfApi  # noqa: PLC0415

    # HTTPError is the client library's own, whichever that is, and not declared as exported.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # noqa: PLC0415
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        commit = HfApi().dataset_info(name, revision=revision).sha
    except RepositoryNotFoundError as error:
        hint = "check the name; a private or gated dataset needs HF_TOKEN"
        raise UsageError(f"the hub has no dataset {name!r} that you may read", hint=hint) from error
    except RevisionNotFoundError as error:
        raise UsageError(f"the dataset {name!r} has no revision {revision!r}") from error
    except OfflineModeIsEnabled as error:
        hint = "`dem lock` with a network pins it; with the lock, builds work offline"
        raise UsageError(
            f"the dataset {name!r} is not in the lock, and this build is offline", hint=hint
        ) from error
    except (HFValidationError, HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "`dem lock` with a network pins it; with the lock, builds work offline"
        raise UsageError(f"the hub cannot be asked for the dataset {name!r}: {reason}", hint=hint) from error
    if commit is None:
        raise UsageError(f"the hub names no commit of the dataset {name!r}")
    return commit
