"""Characteristics and co-states: Hamilton's equations, discrete adjoints, Pontryagin training, flows and scores."""

from ._adjoint_heat import adjoint_heat as adjoint_heat
from ._caustic import Caustic as Caustic
from ._caustic import caustic_time as caustic_time
from ._caustic import first_shock as first_shock
from ._characteristics import solve_characteristics as solve_characteristics
from ._continuous import continuous_costate as continuous_costate
from ._costate import costate as costate
from ._costate_result import Costate as Costate
from ._pontryagin import PontryaginStep as PontryaginStep
from ._pontryagin import costate_loss as costate_loss
from ._pontryagin import pontryagin_step as pontryagin_step
from ._sampling import Transported as Transported
from ._sampling import probability_flow as probability_flow
from ._sampling import sample as sample
from ._scores import denoise as denoise
from ._scores import flow_matching_velocity as flow_matching_velocity
from ._scores import log_density as log_density
from ._scores import score as score
from ._solvers import ImplicitMidpoint as ImplicitMidpoint
from ._solvers import StormerVerlet as StormerVerlet
