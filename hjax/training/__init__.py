"""Training: one optax loop for one model or a whole ensemble, schedules of eps, checkpoints, convex fits."""

from ._fit import fit as fit
from ._fit import fit_many as fit_many
from ._fixed_support import FixedSupport as FixedSupport
from ._fixed_support import fit_fixed_support as fit_fixed_support
from ._losses import absolute_error as absolute_error
from ._losses import cross_entropy as cross_entropy
from ._losses import squared_error as squared_error
from ._polish import polish as polish
from ._result import Diverged as Diverged
from ._result import Fit as Fit
from ._result import Fits as Fits
from ._schedules import constant as constant
from ._schedules import cosine as cosine
from ._schedules import geometric as geometric
