"""Solutions of Hamilton-Jacobi equations from atoms: exact in x and t, differentiable in everything."""

from ._hopf_cole import HopfCole as HopfCole
from ._hopf_lax import HopfLax as HopfLax
from ._solution import Solution as Solution
