"""Initial data as atoms: points, values, and the logarithms of their quadrature weights."""

from . import quadrature as quadrature
from ._initial_data import InitialData as InitialData
