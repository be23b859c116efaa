"""What equation a model solves, said in words and numbers."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Description:
    """The Hamilton-Jacobi reading of a model: what `describe()` returns. `print` it.

    - `model`: the class.
    - `equation`: the equation whose solution the forward pass evaluates.
    - `hamiltonian`: H, at its gauge.
    - `eps`: temperature = viscosity; 0 for a max-plus model, None where parts have their own.
    - `gauge`: which (t, A) may be chosen freely, and what that changes.
    - `atoms`: which parameters or inputs are the initial data.
    - `status`: "exact" (an identity, to rounding), "structural" (an analogy with an error of its own, such as an
      Euler step) or "open" (no equation is known).
    - `parts`: the readings of its layers.
    """

    model: str
    equation: str
    hamiltonian: str
    eps: float | None
    gauge: str
    atoms: str
    status: Literal["exact", "structural", "open"]
    parts: "tuple[Description, ...]" = ()

    def __str__(self) -> str:
        lines = [f"{self.model} ({self.status})"]
        for name in ("equation", "hamiltonian", "eps", "gauge", "atoms"):
            value = getattr(self, name)
            if value is not None:
                lines.append(f"  {name:<12}{value:g}" if name == "eps" else f"  {name:<12}{value}")
        for part in self.parts:
            lines += [f"  {line}" for line in str(part).splitlines()]
        return "\n".join(lines)
