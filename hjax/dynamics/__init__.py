"""Characteristics and co-states: Hamilton's equations, discrete adjoints, Pontryagin training, flows and scores."""

from ._costate import costate as costate
from ._costate_result import Costate as Costate
from ._characteristics import solve_characteristics as solve_characteristics
from ._solvers import ImplicitMidpoint as ImplicitMidpoint
from ._solvers import StormerVerlet as StormerVerlet
