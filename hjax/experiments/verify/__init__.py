"""The theorem table: every identity, bound and rate of the theory, measured by two sides that share no code.

One side is hjax's public interface; the other an oracle that knows nothing of it (`_oracles.py`): 50-digit
arithmetic, adaptive quadrature, linear programming, finite differences. A check returns its numbers and what
they say, never a verdict: `run` reads the verdict off the measurements and compares it with the expected one.

To add a statement, write a function without arguments that returns `Evidence` and put `@check(...)` on it.
"""

# Importing a section registers its checks, in the order of the theory.
from . import _maslov as _maslov  # isort: split
from . import _network_identity as _network_identity  # isort: split
from . import _attention as _attention  # isort: split
from . import _hamiltonian_class as _hamiltonian_class  # isort: split
from . import _tropical as _tropical  # isort: split
from . import _characteristics as _characteristics  # isort: split
from . import _recurrent as _recurrent  # isort: split
from . import _state_space as _state_space  # isort: split
from . import _lstm as _lstm  # isort: split
from . import _convergence as _convergence  # isort: split
from . import _depth as _depth  # isort: split
from . import _backpropagation as _backpropagation  # isort: split
from . import _dictionary as _dictionary  # isort: split
from . import _tasks as _tasks  # isort: split
from . import _training_theory as _training_theory  # isort: split
from . import _feynman_kac as _feynman_kac  # isort: split
from . import _adjoint as _adjoint  # isort: split
from . import _closure as _closure  # isort: split
from . import _blocks as _blocks  # isort: split
from . import _activations as _activations  # isort: split
from . import _tokens as _tokens  # isort: split
from . import _quadrature as _quadrature  # isort: split
from . import _experiments as _experiments  # isort: split
from ._table import Evidence as Evidence
from ._table import Finding as Finding
from ._table import Verdict as Verdict
from ._table import check as check
from ._table import items as items
from ._table import run as run
from ._table import select as select
