"""What every benchmark writes down: its machine, and figures in a file that is whole or not there."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

import hjax


def machine(rounds: int) -> dict[str, Any]:
    """What the figures were measured on, and with."""
    return {
        "device": str(jax.devices()[0]),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "hjax": hjax.__version__,
        "rounds": rounds,
    }


def save(path: Path, result: dict[str, Any]) -> None:
    """Write JSON under another name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)
