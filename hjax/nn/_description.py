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

    >>> import jax, hjax
    >>> layer = hjax.nn.LSELayer(2, "scalar", width=16, eps=0.5, key=jax.random.key(0))
    >>> reading = layer.describe()
    >>> reading.status, reading.eps
    ('exact', 0.5)
    >>> print(reading)  # doctest: +ELLIPSIS
    LSELayer (exact)
      equation    f(x) = x^T A^-1 x/(4t) - u(x, t), with u_t + grad u^T A grad u = eps tr(A D^2 u) ...
      hamiltonian p^T A p; |p|^2 at A = I
      eps         0.5
      ...
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
