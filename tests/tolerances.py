"""The one table of tolerances, and what they are relative to.

A soft-min is a sum of positive terms, so its rounding error is a few ulp of the *natural scale* of u: the
largest of |u|, the offset of g, the costs that carry weight, and eps log N. Its Gibbs weights are
exponentials of costs over eps: their relative error is that error over eps, at most one.
"""

from typing import NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    atol: float
    rtol: float


# Eight units in the last place; half precision is rounded once at the end, so one unit.
_TABLE = {
    "float64": Tolerance(8 * 2.0**-52, 8 * 2.0**-52),
    "float32": Tolerance(8 * 2.0**-23, 8 * 2.0**-23),
    "bfloat16": Tolerance(2.0**-8, 2.0**-8),
    "float16": Tolerance(2.0**-11, 2.0**-11),
}


def of(dtype: object, *, derivative: int = 0) -> Tolerance:
    """The row of the table; a derivative doubles it, once per order."""
    atol, rtol = _TABLE[np.dtype(dtype).name]
    return Tolerance(2**derivative * atol, 2**derivative * rtol)


def value_error(dtype: object, scale: float) -> float:
    """Largest error of a soft-min or hard-min whose natural scale is `scale`."""
    return of(dtype).rtol * scale


def weight_error(dtype: object, scale: float, eps: float) -> float:
    """Largest relative error of its Gibbs weights, and so of means and derivatives."""
    return min(1.0, of(dtype, derivative=1).rtol * (1 + scale / eps))
