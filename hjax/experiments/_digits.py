"""Real data as a Hamilton-Jacobi problem: atoms with labels, checked against scikit-learn.

With g = 0 and `2 eps t = bandwidth^2` the Gibbs weights of Hopf-Cole are

    p_j(x) ~ exp(-|x - y_j|^2 / (2 bandwidth^2)),

so the Gibbs mean of the one-hot labels is the Nadaraya-Watson estimate of their probabilities, and the
minimiser of Hopf-Lax is the nearest neighbour. scikit-learn computes both from the same pixels.
"""

import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import hjax

from ._problem import precision
from ._solve import Progress, Solved
from ._tables import load_toml

_TIME = 0.5
_SHOWN = 12


class Digits(NamedTuple):
    """Which digits are atoms (the first `atoms` of 1,797), and the kernel's width."""

    name: str
    title: str
    atoms: int
    bandwidth: float

    @property
    def eps(self) -> float:
        """The viscosity that makes the kernel that wide: 2 eps t = bandwidth^2."""
        return self.bandwidth**2 / (2 * _TIME)


def read_digits(path: Path) -> Digits:
    """The digits problem in a TOML file: a title and a table [digits] with atoms and bandwidth."""
    root = load_toml(path)
    title = root.text("title", path.stem)
    table = root.table("digits")
    count = table.integer("atoms", default=1437)
    if not count < 1797:
        raise table.error("atoms", f"is {count}, but fewer than 1797 are wanted: the others are held out")
    digits = Digits(path.stem, title, count, table.number("bandwidth", positive=True))
    table.finish()
    root.finish()
    return digits


def solve_digits(problem: Digits, progress: Progress = lambda fraction, doing: None) -> Solved:
    """Predict the held-out digits by Hopf-Cole and Hopf-Lax, and by scikit-learn.

    **Returns:** with N atoms, M queries and 10 labels:

    - `queries (M, 64)`, `query_labels (M,)`; `atoms_points (N, 64)`, `atoms_values (N,)` (zero),
      `atoms_labels (N,)`; `eps`, `time`, `bandwidth`;
    - `probability (M, 10)`: E[one-hot label]; `prediction (M,)`; `entropy (M,)` of the atoms' weights;
    - `top_atoms (M, 12)`, `top_weights (M, 12)`: the atoms that weigh most, heaviest first;
    - `minimizer (M,)`: the nearest atom by Hopf-Lax; `nearest_label (M,)`;
    - `sklearn_probability`, `sklearn_prediction`, `sklearn_nearest_label`: the same by scikit-learn.
    """
    start = time.perf_counter()
    images, labels = load_digits(return_X_y=True)
    images = images / 16.0
    y, x = images[: problem.atoms], images[problem.atoms :]
    atoms_labels, query_labels = labels[: problem.atoms], labels[problem.atoms :]
    progress(0.05, "Hopf-Cole and Hopf-Lax")
    with precision("float64"):
        data = hjax.InitialData(jnp.asarray(y), jnp.zeros(len(y)))
        u, v = hjax.HopfCole(data, problem.eps), hjax.HopfLax(data)
        queries = jnp.asarray(x)
        top_weights, top_atoms = jax.lax.top_k(u.weights(queries, _TIME), min(_SHOWN, len(y)))
        probability = u.expectation(queries, _TIME, jax.nn.one_hot(jnp.asarray(atoms_labels), 10))
        arrays = {
            "probability": probability,
            "prediction": jnp.argmax(probability, axis=1),
            "entropy": u.entropy(queries, _TIME),
            "top_atoms": top_atoms,
            "top_weights": top_weights,
            "minimizer": v.minimizer(queries, _TIME),
        }
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
    arrays["nearest_label"] = atoms_labels[arrays["minimizer"]]
    progress(0.5, "scikit-learn")
    arrays |= _scikit_learn(problem, y, atoms_labels, x)
    arrays |= {
        "queries": x,
        "query_labels": query_labels,
        "atoms_points": y,
        "atoms_values": np.zeros(len(y)),
        "atoms_labels": atoms_labels,
        "eps": np.asarray(problem.eps),
        "time": np.asarray(_TIME),
        "bandwidth": np.asarray(problem.bandwidth),
    }
    progress(1.0, "done")
    checks = _checks(arrays)
    checks["seconds"] = time.perf_counter() - start
    return Solved(arrays, checks)


def _scikit_learn(problem: Digits, y: np.ndarray, labels: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    """Nadaraya-Watson as a k-nearest-neighbour classifier with k = N and Gaussian weights, and 1-NN."""

    def gaussian(distances: np.ndarray) -> np.ndarray:
        # Relative to the nearest one: scikit-learn normalises, and nothing may underflow before.
        nearest = distances.min(axis=1, keepdims=True)
        return np.exp((nearest**2 - distances**2) / (2 * problem.bandwidth**2))

    smooth = KNeighborsClassifier(len(y), algorithm="brute", weights=gaussian)  # pyright: ignore
    smooth.fit(y, labels)
    nearest = KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(y, labels)
    probability = np.zeros((len(x), 10))
    probability[:, smooth.classes_] = smooth.predict_proba(x)
    return {
        "sklearn_probability": probability,
        "sklearn_prediction": smooth.predict(x),
        "sklearn_nearest_label": nearest.predict(x),
    }


def _checks(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    truth, right = arrays["query_labels"], arrays["prediction"] == arrays["query_labels"]

    def accuracy(name: str) -> float:
        return float(np.mean(arrays[name] == truth))

    return {
        "accuracy": accuracy("prediction"),
        "sklearn_accuracy": accuracy("sklearn_prediction"),
        "agreement": float(np.sum(arrays["prediction"] == arrays["sklearn_prediction"])),
        "probability_difference": float(np.abs(arrays["probability"] - arrays["sklearn_probability"]).max()),
        "nearest_accuracy": accuracy("nearest_label"),
        "sklearn_nearest_accuracy": accuracy("sklearn_nearest_label"),
        "nearest_agreement": float(np.sum(arrays["nearest_label"] == arrays["sklearn_nearest_label"])),
        "entropy_right": float(arrays["entropy"][right].mean()) if right.any() else float("nan"),
        "entropy_wrong": float(arrays["entropy"][~right].mean()) if not right.all() else float("nan"),
    }
