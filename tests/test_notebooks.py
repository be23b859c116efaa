"""Every notebook was run when it was saved, and runs now, with smaller parameters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
QUICK = {
    "characteristics_and_shocks": (
        "DRIFT_STEPS, RAYS_ACROSS = 2_000, 40\njax.config.update('jax_disable_most_optimizations', True)"
    ),
    "how_far_one_reduction_goes": "SIZES = (40_000,)",
    # In these it is the compiler that takes the time.
    "backpropagation_as_costate": "QUICK = True\njax.config.update('jax_disable_most_optimizations', True)",
    "networks_that_solve": "QUICK = True\njax.config.update('jax_disable_most_optimizations', True)",
}


def cells(name: str) -> list[dict]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]


def test_every_notebook_has_quick_parameters():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(QUICK)


@pytest.mark.parametrize("name", QUICK)
def test_it_was_saved_after_a_clean_run(name: str):
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds
    assert "display_data" in kinds


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_it_runs(name: str, tmp_path: Path):
    lines = []
    for cell in cells(name):
        if cell["cell_type"] == "code":
            lines.append("".join(cell["source"]))
            if "parameters" in cell["metadata"].get("tags", []):
                lines.append(QUICK[name])
    script = tmp_path / f"{name}.py"
    script.write_text("\n\n".join(lines))
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    # Without a display `plt.show` says so, in a warning; all others are errors.
    command = [sys.executable, "-W", "error", "-W", "ignore:FigureCanvasAgg is non-interactive", script]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
