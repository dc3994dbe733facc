"""Builds whose actions a real Slurm runs: two nodes on this host, started here."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from project import RECIPE, Project, fresh, ran
from slurm_cluster import SlurmCluster, require_slurm

MACHINE = """\
engine = "slurm"
checkpoint_seconds = 0
[submit]
cpus = 1
gpus = 0
memory_gb = 1
poll_seconds = 0.5
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory):
    require_slurm()
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def project(slurm: SlurmCluster, tmp_path: Path, tiny_base: Path) -> Project:
    made = fresh(tmp_path, tiny_base)
    made.environment |= {"SLURM_CONF": str(slurm.file)}
    (tmp_path / "machine.toml").write_text(MACHINE)
    return made


def test_a_build_runs_each_training_as_a_job_and_the_rest_in_batches(project: Project) -> None:
    document = project.build()
    assert "vector:add" in ran(document)
    assert document["ok"] if "ok" in document else True
