"""Reductions: every Gibbs average and every minimum over atoms in hjax is one of two calls.

`softmin(x, y, g, eps=...)` is `-eps log sum_j exp(-(c(x, y_j) + g_j)/eps)` with the Gibbs mean of a payload;
`hardmin(x, y, g)` is its limit eps -> 0 with the index of the minimiser. They promise: memory O(M + N),
derivatives of every order, finite and accurate results for eps from 1e-8 to 1e6.

Rooms above call these and nothing else; rooms below know nothing of them. One file per implementation:
`_dense` is the definition and the oracle, `_streaming` goes through all pairs tile by tile (`_tiles`), `_pruned`
through the tiles that can matter (`_order`, `_selection`, `_pair_sums`). To add one: a file with the same
three functions (`softmin`, `argmin`, `spread` of a `Problem`), a line in `_api._IMPLEMENTATIONS`, and a
two-line subclass of the abstract suite in `tests/reductions`.
"""

from ._api import Choice as Choice
from ._api import EvaluatedTiles as EvaluatedTiles
from ._api import HardMin as HardMin
from ._api import SoftMin as SoftMin
from ._api import evaluated_fraction as evaluated_fraction
from ._api import evaluated_tiles as evaluated_tiles
from ._api import gibbs_entropy as gibbs_entropy
from ._api import gibbs_weights as gibbs_weights
from ._api import hardmin as hardmin
from ._api import softmin as softmin
from ._api import which_implementation as which_implementation
from ._costs import Bilinear as Bilinear
from ._costs import Cost as Cost
from ._costs import LagrangianCost as LagrangianCost
from ._costs import Mahalanobis as Mahalanobis
from ._costs import SquaredEuclidean as SquaredEuclidean
from ._costs import quadratic_cost as quadratic_cost
from ._grid import on_grid as on_grid
from ._sharded import shard as shard
