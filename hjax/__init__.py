"""hjax: solving a Hamilton-Jacobi equation and running a neural network as one code path."""

from importlib.metadata import version as _version

# dynamics
from . import dynamics as dynamics

# networks
from . import nn as nn

# training
from . import training as training

# files
from ._serialisation import load as load
from ._serialisation import save as save

# hamiltonians
from .hamiltonians import Advection as Advection
from .hamiltonians import Eikonal as Eikonal
from .hamiltonians import Hamiltonian as Hamiltonian
from .hamiltonians import Power as Power
from .hamiltonians import Quadratic as Quadratic
from .hamiltonians import Relativistic as Relativistic
from .hamiltonians import Separable as Separable

# initial data
from .initial_data import InitialData as InitialData
from .initial_data import quadrature as quadrature

# reductions
from .reductions import Bilinear as Bilinear
from .reductions import Cost as Cost
from .reductions import HardMin as HardMin
from .reductions import LagrangianCost as LagrangianCost
from .reductions import Mahalanobis as Mahalanobis
from .reductions import SoftMin as SoftMin
from .reductions import SquaredEuclidean as SquaredEuclidean
from .reductions import evaluated_fraction as evaluated_fraction
from .reductions import hardmin as hardmin
from .reductions import on_grid as on_grid
from .reductions import shard as shard
from .reductions import softmin as softmin
from .reductions import which_implementation as which_implementation

# solutions
from .solutions import HopfCole as HopfCole
from .solutions import HopfLax as HopfLax
from .solutions import Solution as Solution

__version__ = _version("hjax")
