from collections.abc import Sequence

import equinox as eqx
import jax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PRNGKeyArray

from . import _rows
from ._description import Description
from ._lse_network import LSENetwork


class EncoderDecoder(eqx.Module):
    """Two stages `decoder(encoder(x))` around a bottleneck of finitely many numbers.

    Each stage is an `LSENetwork`. The states of the equation's semigroup, `S_t2 S_t1 = S_(t1+t2)`, are functions; a
    bottleneck of k numbers is a point at which the decoder's solution is evaluated, and no width makes the composition
    a semigroup step. `compose` is the two-stage model whose state is a function.

    One sample in, `(in_size,)`; use `jax.vmap` for batches.

    **Arguments:**

    - `in_size`: d, of input and reconstruction.
    - `bottleneck`: k, the size of the code.
    - `hidden`: units of the hidden layers of the encoder; the decoder has them in reverse.
    - `width`: rows of each unit. `eps`: temperature, positive. `key`: random key.

    **Raises:** `ValueError` for sizes below one, eps <= 0, or an input of another shape or integer dtype.

    **Cost:** that of two `LSENetwork`s.

    **Reference:** Hamilton-Jacobi theory of deep learning (2026), Appendix C; Theorem 7.1 (ii) as corrected.

    >>> import jax, jax.numpy as jnp, hjax
    >>> model = hjax.nn.EncoderDecoder(6, 2, (8,), width=4, eps=0.1, key=jax.random.key(0))
    >>> model.encoder(jnp.zeros(6)).shape, model(jnp.zeros(6)).shape
    ((2,), (6,))
    """

    encoder: LSENetwork
    decoder: LSENetwork

    def __init__(
        self, in_size: int, bottleneck: int, hidden: Sequence[int], width: int, *, eps: ArrayLike, key: PRNGKeyArray
    ):
        first, second = jax.random.split(key)
        bottleneck = _rows.size("bottleneck", bottleneck)
        self.encoder = LSENetwork(in_size, bottleneck, hidden, width, eps=eps, key=first)
        self.decoder = LSENetwork(bottleneck, in_size, list(hidden)[::-1], width, eps=eps, key=second)

    def __call__(self, x: ArrayLike, *, key: PRNGKeyArray | None = None) -> Float[Array, "d"]:
        """The reconstruction, `(in_size,)`. `key` is ignored, for use inside `eqx.nn.Sequential`."""
        del key
        return self.decoder(self.encoder(x))

    def describe(self) -> Description:
        """Each stage's reading, and why the two are not one step of the semigroup."""
        return Description(
            model="EncoderDecoder",
            equation=f"none as a whole: the code of {self.decoder.in_size} numbers is a point at which the decoder is "
            "evaluated. S_t2 S_t1 = S_(t1+t2) holds for states that are functions (hjax.nn.compose)",
            hamiltonian="p^T A p for each unit of each stage",
            eps=None,
            gauge="one time t and metric A for each unit: the model does not depend on them",
            atoms="the rows of each unit",
            status="structural",
            parts=(self.encoder.describe(), self.decoder.describe()),
        )
