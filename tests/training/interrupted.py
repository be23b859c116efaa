"""A run that kills itself while it writes its third checkpoint: `python -m tests.training.interrupted FILE`."""

import os
import signal
import sys
from typing import Any

import jax
import numpy as np
import optax

import hjax

# Made once: the same objects compile once.
OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.02, 70))
SCHEDULE = hjax.training.geometric(0.5, 0.1, 60)


def run(checkpoint: Any, **options: Any) -> hjax.training.Fit:
    """The run: batches, annealing, a rate that falls."""
    x = np.linspace(-2, 2, 64)[:, None].astype(np.float32)
    layer = hjax.nn.LSELayer(1, "scalar", 8, eps=0.5, key=jax.random.key(0))
    given = {
        "steps": 70,
        "batch_size": 24,
        "key": jax.random.key(5),
        "optimizer": OPTIMIZER,
        "eps": SCHEDULE,
        "every": 15,
    } | options
    return hjax.training.fit(layer, (x, np.abs(x[:, 0])), checkpoint=checkpoint, **given)


if __name__ == "__main__":
    writes = 0
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        """Count the checkpoints' own flushes (each is followed by one of the folder); die in the third."""
        global writes
        writes += 1
        if writes == 5:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    os.fsync = fsync
    run(sys.argv[1])
