"""The machine file: how and where to build. Recorded with every action, never part of a key."""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

_KINDS = ("s3", "gs", "az", "hf", "https", "http", "file")
_READ_ONLY = ("https", "http")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9._-]*")
_HOLDS_ONE = "holds a credential: leave it to the store's own variables and files"


def _address(url: str) -> str:
    """Refuse an address that nothing reaches, or that holds a secret: it is shown, and files with it are shared."""
    try:
        parts = urlsplit(url)
        host, secret = parts.hostname, "@" in parts.netloc or parts.query or parts.fragment
    except ValueError:
        raise PydanticCustomError("no_address", "must be an address") from None
    # A folder may be called anything; of an address, also of an unknown kind, no part may be a secret.
    if "://" in url and secret:
        raise PydanticCustomError("credential", _HOLDS_ONE)
    if "://" in url and parts.scheme not in _KINDS:
        what = "must begin with s3://, gs://, az://, hf:// or https://, or be a folder"
        raise PydanticCustomError("no_address", what)
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise PydanticCustomError("no_address", "must begin with https:// where it is not on this machine")
    if "://" in url and parts.scheme != "file" and not host:
        raise PydanticCustomError("no_address", "must name a bucket, a repository or a host")
    return url.rstrip("/") or "/"


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query:
        raise PydanticCustomError("credential", _HOLDS_ONE)
    if parts.scheme not in _READ_ONLY or not parts.netloc:
        raise PydanticCustomError("no_address", "must begin with https:// or http://")
    return url


def _namespace(name: str) -> str:
    if not _NAMESPACE.fullmatch(name):
        what = "must be made of small letters, digits, `.`, `_` and `-`, and begin with a letter or digit"
        raise PydanticCustomError("no_namespace", what)
    return name


Namespace = Annotated[str, Field(min_length=1), AfterValidator(_namespace)]


class Remote(BaseModel):
    """One shared store, which is asked for what is not here and given what was made here.

    Its parts are *namespaces* (`trusted`, `pr-17`, `user-ada`): who may write to one is up to the store's access rules
    on the folder of that name. Credentials come by the store's own variables and files, and never stand here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    url: Annotated[str, Field(min_length=1), AfterValidator(_address)] = Field(
        description="Where it is: `s3://`, `gs://`, `az://`, `hf://` (a repository), `https://` (read only), or a "
        "folder, relative to the machine file."
    )
    read: tuple[Namespace, ...] = Field(
        default=(), description="Namespaces that are asked, in this order. Default: the one of `write`."
    )
    write: Namespace | None = Field(
        default=None, description="The namespace that is written. Without it nothing is written."
    )
    endpoint: Annotated[str, Field(min_length=1), AfterValidator(_endpoint)] | None = Field(
        default=None,
        description="The server of a store that speaks S3's language and is not Amazon's: `https://…`, or `http://…` "
        "on a network that you trust.",
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        scheme = urlsplit(self.url).scheme
        if not self.read and self.write is None:
            raise PydanticCustomError("nothing_asked", "needs `read`, `write` or both")
        if self.write is not None and scheme in _READ_ONLY:
            raise PydanticCustomError(
                "read_only", "an address of a web server is read only: leave out `write`"
            )
        if self.endpoint is not None and scheme not in {"s3", "gs", "az"}:
            raise PydanticCustomError("no_endpoint", "`endpoint` is for s3://, gs:// and az:// alone")
        return self

    @property
    def asked(self) -> tuple[str, ...]:
        """The namespaces that are asked, in order."""
        return self.read or ((self.write,) if self.write else ())


class Submit(BaseModel):
    """What the jobs of a scheduler are given, where `engine` names one: [Slurm](engines.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    cpus: int = Field(default=4, ge=1, description="CPU cores of a job.")
    gpus: int = Field(
        default=1,
        ge=0,
        le=1,
        description="GPUs of a job that runs a model; 0 on a cluster without. A training gets `gpus_per_action` times "
        "as many.",
    )
    memory_gb: int | None = Field(
        default=None, ge=1, description="Memory of a job's node. Default: a quarter more than is estimated."
    )
    minutes: int | None = Field(
        default=None,
        ge=5,
        description="Longest time limit of a job; one that meets it saves its state and is queued again. Default: the "
        "scheduler's own. Where times are known it is twice what is expected.",
    )
    most: int = Field(
        default=100, ge=1, description="Actions that are submitted at once; `jobs` stands above it."
    )
    poll_seconds: float = Field(
        default=15.0, gt=0, description="Seconds between two questions to the scheduler."
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="What else the scheduler is told. For `slurm` in the words of `submitit.SlurmExecutor`: "
        "`partition`, `account`, `qos`, `constraint`, `setup`, `additional_parameters` …",
    )


class Machine(BaseModel):
    """The keys of `machine.toml`; all of them optional."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    cache: str | None = Field(default=None, description="Folder of the store; relative to the machine file.")
    work: str | None = Field(
        default=None,
        description="Folder for unfinished runs and their checkpoints, on any disk of this machine; relative to the "
        "machine file. Default: in the store.",
    )
    jobs: int | None = Field(
        default=None,
        ge=1,
        description="Actions that run at once. Default: one a set of GPUs, or one on a CPU-only machine. There cores "
        "are shared out among them: with `jobs = 2` on two cores the demo took 107 s in place of 131 "
        "([measured](benchmarks.md#two-trainings-at-once)). A training's bits depend on its number of threads, so "
        "another `jobs` trains vectors of other last digits; what is cached stays. An action starts beside others "
        "where the memory that was free holds both, by `dem plan`'s estimate.",
    )
    gpus_per_action: int = Field(
        default=1,
        ge=1,
        description="GPUs that one training uses, a process each: [several ranks](engines.md#several-gpus-an-action). "
        "A machine without GPUs does not read it.",
    )
    processes_per_action: int = Field(
        default=1,
        ge=1,
        description="Processes that one training uses on a machine without GPUs, to the same end.",
    )
    micro_batch: int = Field(default=8, ge=1, description="Most sequences in one forward and backward pass.")
    eval_batch_size: int = Field(
        default=16, ge=1, description="Sequences in one forward pass of an evaluation."
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Trade time for memory while training, and in a search by slopes: layers are computed again.",
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        default=None, description="Attention kernel, as transformers names it."
    )
    report_to: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = Field(
        default=(),
        description="Trackers, as transformers names them. They write to `runs/` of the cache; wandb is offline unless "
        "WANDB_MODE says otherwise, and trackio keeps to this machine unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL "
        "does.",
    )
    checkpoint_seconds: float = Field(
        default=300.0,
        ge=0,
        description="Seconds between two checkpoints of a training; 0 saves after each step.",
    )
    engine: Annotated[str, Field(min_length=1)] = Field(
        default="local",
        description="What runs actions: `local`, this machine; `slurm`, which gets a job for each training and one for "
        "what else is due together.",
    )
    submit: Submit = Field(
        default_factory=Submit, description="What jobs are given, where `engine` has jobs: see below."
    )
    remotes: tuple[Remote, ...] = Field(
        default=(),
        description="Shared stores, each a table `[[remotes]]`; the first that has something counts.",
    )

    def ranks(self, *, gpu: bool) -> int:
        """How many processes a training has, a GPU each where there are any."""
        return self.gpus_per_action if gpu else self.processes_per_action
