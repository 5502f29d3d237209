"""The notebook runs from top to bottom in a real kernel, and is committed without outputs."""

import os
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[2] / "experiments" / "tour.ipynb"


def test_the_tour_runs(monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    notebook = nbformat.read(TOUR, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before you commit it"
    monkeypatch.setenv("XLA_FLAGS", os.environ["PURERL_TESTS_COMMAND_XLA_FLAGS"])  # as commands that tests start
    nbclient.NotebookClient(notebook, timeout=300).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    assert not any(output["output_type"] == "error" for output in shown)
