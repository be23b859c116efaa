"""Linear systems `s' = A s` that are stable by parametrisation, and what one step of a discretization makes of them.

A is `scale` times a diagonal of conjugate pairs or a dense contraction. A step of it is a `Rotation` or a `Matrix`:
what acts on rows of states, has powers and a transpose, and can be run over many steps.
"""

from typing import Any, Literal, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Inexact

from .. import _checks
from ._linear_scan import linear_scan

Discretization = Literal["zero_order_hold", "bilinear"]
Transition = TypeVar("Transition", "Rotation", "Matrix")
HIGHEST = jax.lax.Precision.HIGHEST


class Rotation(NamedTuple):
    """A diagonal of complex numbers, on states kept as real parts before imaginary parts."""

    real: Float[Array, "m"]
    imaginary: Float[Array, "m"]

    def apply(self, rows: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """The map on each row."""
        real, imaginary = jnp.split(rows, 2, axis=-1)
        return jnp.concatenate(
            [self.real * real - self.imaginary * imaginary, self.imaginary * real + self.real * imaginary], axis=-1
        )

    def transpose(self) -> "Rotation":
        """That of the real matrix, so the complex conjugate."""
        return Rotation(self.real, -self.imaginary)

    def then(self, other: "Rotation") -> "Rotation":
        """The map, and another after it."""
        real = self.real * other.real - self.imaginary * other.imaginary
        return Rotation(real, self.real * other.imaginary + self.imaginary * other.real)

    def identity(self) -> "Rotation":
        """The map that changes nothing."""
        return Rotation(jnp.ones_like(self.real), jnp.zeros_like(self.imaginary))

    def run(self, drives: Float[Array, "K n"]) -> Float[Array, "K n"]:
        """s_1 ... s_K of `s_{k+1} = map(s_k) + drive_k` from zero."""
        states = linear_scan(jax.lax.complex(self.real, self.imaginary), jax.lax.complex(*jnp.split(drives, 2, -1)))
        return jnp.concatenate([states.real, states.imag], axis=-1)


class Matrix(NamedTuple):
    """A dense matrix."""

    matrix: Float[Array, "n n"]

    def apply(self, rows: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """The map on each row."""
        return jnp.matmul(rows, self.matrix.T, precision=HIGHEST)

    def transpose(self) -> "Matrix":
        """The transpose."""
        return Matrix(self.matrix.T)

    def then(self, other: "Matrix") -> "Matrix":
        """The map, and another after it."""
        return Matrix(jnp.matmul(other.matrix, self.matrix, precision=HIGHEST))

    def identity(self) -> "Matrix":
        """The map that changes nothing."""
        return Matrix(jnp.eye(self.matrix.shape[0], dtype=self.matrix.dtype))

    def run(self, drives: Float[Array, "K n"]) -> Float[Array, "K n"]:
        """s_1 ... s_K of `s_{k+1} = map(s_k) + drive_k` from zero, one after another."""

        def step(state: Array, drive: Array) -> tuple[Array, Array]:
            following = self.apply(state) + drive
            return following, following

        return jax.lax.scan(step, jnp.zeros_like(drives[0]), drives)[1]


def powers(
    transition: Transition, rows: Float[Array, "r n"], count: int
) -> tuple[Float[Array, "count r n"], Transition]:
    """The map 0, 1, ..., count - 1 times on the rows, and the map count times; count is a power of two."""
    # i + j inner times: i times one after another, then j jumps at once. Loops that compile once, of sqrt(count) steps.
    inner = 2 ** ((count.bit_length() - 1) // 2)

    def step(carry: Any, _: None) -> tuple[Any, Array]:
        images, jump = carry
        return (transition.apply(images), jump.then(transition)), images

    def leap(product: Any, _: None) -> tuple[Any, Any]:
        return product.then(jump), product

    (_, jump), images = jax.lax.scan(step, (rows, transition.identity()), None, length=inner)
    whole, jumps = jax.lax.scan(leap, transition.identity(), None, length=count // inner)
    images = jax.vmap(lambda jump: jump.apply(images))(jumps)
    return images.reshape(count, *rows.shape), whole


class DiagonalGenerator(eqx.Module):
    """`A = scale diag(-exp(log_decay) + i frequency)`, m modes and their conjugates on a real state of n = 2m."""

    log_decay: Float[Array, "m"]
    frequency: Float[Array, "m"]
    log_scale: Float[Array, "m"]

    @classmethod
    def of(cls, eigenvalues: Inexact[Array, "m"], log_scale: Float[Array, "m"]) -> "DiagonalGenerator":
        """With the given eigenvalues at scale one, whose real parts must be negative."""
        if _checks.is_concrete(eigenvalues):
            largest = np.real(np.asarray(eigenvalues)).max()
            if not largest < 0:
                raise ValueError(
                    f"A has an eigenvalue of real part {largest:g}, but negative ones are wanted, of a stable system; "
                    f"pass for example A - {abs(largest) + 0.1:g}."
                )
        return cls(jnp.log(-eigenvalues.real), eigenvalues.imag, log_scale)

    @property
    def scale(self) -> Float[Array, "n"]:
        """How much faster than at scale one each component of the state moves."""
        return jnp.tile(jnp.exp(self.log_scale), 2)

    @property
    def matrix(self) -> Float[Array, "n n"]:
        """A as a real matrix of 2 x 2 blocks."""
        return self.apply(jnp.eye(2 * self.log_decay.shape[0], dtype=self.log_decay.dtype)).T

    def apply(self, rows: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """A on each row."""
        scale = jnp.exp(self.log_scale)
        return Rotation(-scale * jnp.exp(self.log_decay), scale * self.frequency).apply(rows)

    def discretize(
        self, weight: Float[Array, "n d"], step: float, method: Discretization
    ) -> tuple[Rotation, Float[Array, "n d"]]:
        """The maps of state and input over one step."""
        scale = step * jnp.exp(self.log_scale)
        z = jax.lax.complex(-scale * jnp.exp(self.log_decay), scale * self.frequency)
        if method == "bilinear":
            each, held = (1 + z / 2) / (1 - z / 2), step / (1 - z / 2)
        else:
            each, held = jnp.exp(z), step * mean_exponential(z)
        return Rotation(each.real, each.imag), Rotation(held.real, held.imag).apply(weight.T).T


class DenseGenerator(eqx.Module):
    """`A = scale (S - S^T - L L^T)`, L lower triangular with diagonal exp(.): |s| can only fall under `s' = A s`.

    Any A with A + A^T negative definite is of this form.
    """

    skew: Float[Array, "n n"]
    factor: Float[Array, "n n"]
    log_scale: Float[Array, ""]

    @classmethod
    def of(cls, matrix: Float[Array, "n n"], log_scale: Float[Array, ""]) -> "DenseGenerator":
        """With the given matrix at scale one, whose symmetric part must be negative definite."""
        growth = (matrix + matrix.T) / 2
        if _checks.is_concrete(matrix):
            largest = np.linalg.eigvalsh(np.asarray(growth, np.float64)).max()
            if not largest < 0:
                raise ValueError(
                    f"A is a matrix whose symmetric part has the eigenvalue {largest:.3g}, but negative ones are "
                    f"wanted, so that |s| falls; pass A in other coordinates, T A T^-1, such as those of "
                    f"scipy.linalg.solve_continuous_lyapunov."
                )
        lower = jnp.linalg.cholesky(-growth)
        diagonal = jnp.diag(jnp.log(jnp.diag(lower)))
        # Half on each side of the diagonal: S - S^T is then the skew part to rounding.
        return cls((matrix - matrix.T) / 4, jnp.tril(lower, -1) + diagonal, log_scale)

    @property
    def scale(self) -> Float[Array, ""]:
        """How much faster than at scale one the state moves."""
        return jnp.exp(self.log_scale)

    @property
    def matrix(self) -> Float[Array, "n n"]:
        """A."""
        lower = jnp.tril(self.factor, -1) + jnp.diag(jnp.exp(jnp.diag(self.factor)))
        return self.scale * (self.skew - self.skew.T - jnp.matmul(lower, lower.T, precision=HIGHEST))

    def apply(self, rows: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """A on each row."""
        return jnp.matmul(rows, self.matrix.T, precision=HIGHEST)

    def discretize(
        self, weight: Float[Array, "n d"], step: float, method: Discretization
    ) -> tuple[Matrix, Float[Array, "n d"]]:
        """The maps of state and input over one step."""
        n, d = weight.shape
        if method == "bilinear":
            half, one = step * self.matrix / 2, jnp.eye(n, dtype=weight.dtype)
            both = jnp.linalg.solve(one - half, jnp.concatenate([one + half, step * weight], axis=1))
            return Matrix(both[:, :n]), both[:, n:]
        # exp of [[A, B], [0, 0]] holds the integral too, with no inverse of A that a singular one has not.
        rows = jnp.concatenate([self.matrix, weight], axis=1)
        # Stiff systems want many squarings: with fewer, jax gives NaN.
        both = jax.scipy.linalg.expm(
            step * jnp.concatenate([rows, jnp.zeros((d, n + d), weight.dtype)]), max_squarings=48
        )
        return Matrix(both[:n, :n]), both[:n, n:]


def mean_exponential(z: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """`(e^z - 1)/z`, the mean of e^(z s) over 0 <= s <= 1, for Re z <= 0, to a few ulp with all derivatives."""
    near = jnp.abs(z) < 0.5
    small, large = jnp.where(near, z, 0), jnp.where(near, 1, z)
    series = jnp.ones_like(z)
    for k in range(_TERMS, 1, -1):  # 1 + z/2 (1 + z/3 (1 + ...)): 0.5^16/17! is below rounding
        series = 1 + small / k * series
    # Not expm1, whose derivative is 1 + expm1 in jax: no digits of e^z are left where that is small.
    return jnp.where(near, series, (jnp.exp(large) - 1) / large)


_TERMS = 17


def normal_eigenvalues(initialization: str, size: int) -> np.ndarray:
    """The m = size/2 eigenvalues of positive frequency of S4D-Lin, S4D-Inv, or of the normal part of HiPPO-LegS."""
    j = np.arange(size // 2)
    if initialization == "s4d_lin":
        frequency = np.pi * j
    elif initialization == "s4d_inv":
        frequency = size / np.pi * (size / (2 * j + 1) - 1)
    else:
        skew = hippo_matrix(size)
        skew = (skew - skew.T) / 2
        frequency = np.sort(np.linalg.eigvalsh(1j * skew))[size // 2 :]
    return -0.5 + 1j * frequency


def hippo_matrix(size: int) -> np.ndarray:
    """HiPPO-LegS: `-sqrt((2i+1)(2j+1))` below the diagonal, `-(i+1)` on it; its input is `sqrt(2i+1)`."""
    root = np.sqrt(2 * np.arange(size) + 1)
    return -np.tril(root[:, None] * root[None, :], -1) - np.diag(np.arange(size) + 1.0)


def initial_matrix(initialization: str, size: int) -> np.ndarray:
    """The dense matrix of an initialization."""
    if initialization == "hippo":
        return hippo_matrix(size)
    modes = normal_eigenvalues(initialization, size)
    real, imaginary = np.diag(np.real(modes)), np.diag(np.imag(modes))
    return np.block([[real, -imaginary], [imaginary, real]])
