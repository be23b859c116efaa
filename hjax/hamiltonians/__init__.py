"""Hamiltonians H, their Legendre duals L, and the costs c_t(x, y) = t L((x - y)/t)."""

from ._hamiltonian import Hamiltonian as Hamiltonian
from ._isotropic import Eikonal as Eikonal
from ._isotropic import Power as Power
from ._isotropic import Relativistic as Relativistic
from ._phase_space import Advection as Advection
from ._phase_space import Separable as Separable
from ._quadratic import Quadratic as Quadratic
