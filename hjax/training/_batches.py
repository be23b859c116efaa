"""Which samples each step sees: every sample once an epoch, in an order that depends on key and epoch only."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Batches:
    """The stream of shuffled epochs, cut into batches; a batch may straddle two epochs.

    Shuffled by NumPy between two pieces of the compiled loop: a sort inside of it would cost more than the step.
    """

    def __init__(self, keys: list[Any], size: int, batch: int | None, shared: bool):
        self.size, self.batch, self.shared = size, batch, shared
        self.words = [np.asarray(_key_words(key)).ravel().tolist() for key in keys]
        self.orders: dict[tuple[int, int], np.ndarray] = {}

    def indices(self, start: int, count: int) -> np.ndarray | None:
        """`(count, batch)`, or `(count, members, batch)`, for the steps from `start`; None for all samples."""
        if self.batch is None:
            return None
        first = start * self.batch // self.size
        self.orders = {k: v for k, v in self.orders.items() if k[1] >= first}
        each = [self._one(m, start, count) for m in range(len(self.words))]
        return each[0] if self.shared else np.stack(each, axis=1)

    def _one(self, member: int, start: int, count: int) -> np.ndarray:
        assert self.batch is not None
        begin, end = start * self.batch, (start + count) * self.batch
        epochs = range(begin // self.size, -(-end // self.size))
        stream = np.concatenate([self._order(member, epoch) for epoch in epochs])
        offset = begin - epochs.start * self.size
        return stream[offset : offset + end - begin].reshape(count, self.batch)

    def _order(self, member: int, epoch: int) -> np.ndarray:
        if (member, epoch) not in self.orders:
            random = np.random.default_rng([*self.words[member], epoch])
            self.orders[member, epoch] = random.permutation(self.size).astype(np.int32)
        return self.orders[member, epoch]


def _key_words(key: Any) -> Array | np.ndarray:
    return jax.random.key_data(key) if is_key(key) else np.asarray(key)


def is_key(array: Any) -> bool:
    """Whether these are random keys of jax's own type."""
    return isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
