"""The notebook of the demo runs from its first cell to its last, in a kernel, on a tiny base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from project import EVALUATE, dataset, fresh, recipe

TOUR = Path(__file__).parents[2] / "recipes/demo/tour.ipynb"


def test_no_output_is_kept_in_the_repository():
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in code)


@pytest.mark.filterwarnings("default")  # of what runs notebooks
def test_the_tour_runs_and_shows_progress_frames_and_figures(tmp_path, tiny_base, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    project = fresh(tmp_path / "demo", tiny_base)
    for name, rows in (("chat", "add"), ("family", "copy")):
        shutil.copy(project.home / f"data/{rows}.jsonl", project.home / f"data/{name}.jsonl")
    tables = [dataset(name, omega=0.7, test=0.2) for name in ("chat", "family")]
    project.write(recipe(*tables, EVALUATE, name="assistant"), "assistant.toml")
    monkeypatch.delenv("DEM_CACHE", raising=False)
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    tour = nbformat.read(shutil.copy(TOUR, project.home), as_version=4)
    place = {"metadata": {"path": str(project.home)}}
    nbclient.NotebookClient(tour, timeout=240, kernel_name="python3", resources=place).execute()
    shown = {c.source.splitlines()[-1]: c.outputs for c in tour.cells if c.cell_type == "code"}
    progress, result = shown["study.build(trust_tasks=True)"]
    assert (
        progress.output_type == "display_data"
    )  # one display that was updated, and keeps what it showed last
    assert "✓ vector:family" in progress.data["text/plain"]
    assert "▸ vector:family" not in progress.data["text/plain"]
    assert "10 actions ran" in result.data["text/plain"]
    assert "<svg" in result.data["text/html"]
    for last in ("study.figures.loss", "study.figures.curves"):
        assert "<svg" in shown[last][0].data["text/html"]
    assert "changed: delta" in shown["other.plan()"][-1].data["text/html"]
    losses = next(outputs for line, outputs in shown.items() if line.startswith("study.results.losses"))
    assert "composed" in losses[0].data["text/html"]
