"""Who else is timed: what each peer computes for `softmin`, and how far it goes.

Every function takes `Clouds` and returns a call that computes, blocks and returns the values `(M,)`.
"""

import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], np.ndarray]


class Clouds(NamedTuple):
    """`-eps log sum_j exp(-(scale |x_i - y_j|^2 + g_j)/eps)`: x `(M, d)`, y `(N, d)`, g `(N,)`, float32."""

    x: np.ndarray
    y: np.ndarray
    g: np.ndarray
    eps: float
    scale: float

    @property
    def pairs(self) -> int:
        """M N."""
        return len(self.x) * len(self.y)

    def exact(self, rows: int = 64) -> np.ndarray:
        """The values at the first queries, by plain NumPy in float64."""
        x, y, g = (a.astype(np.float64) for a in (self.x[:rows], self.y, self.g))
        costs = np.stack([self.scale * ((one - y) ** 2).sum(-1) + g for one in x])
        least = costs.min(axis=1)
        return least - self.eps * np.log(np.exp(-(costs - least[:, None]) / self.eps).sum(axis=1))


def pykeops(clouds: Clouds, kind: str) -> Call:
    """KeOps on the CPU: derivatives by its own automatic differentiation, in x, y and g, and H v in x."""
    if kind in ("gradient", "hvp"):
        return _pykeops_derivatives(clouds, kind)
    from pykeops.numpy import LazyTensor

    x, y, g, eps, scale = clouds
    payload = LazyTensor(np.random.default_rng(0).normal(size=(1, len(y), 64)).astype(np.float32))

    def call() -> np.ndarray:
        exponents = _exponents(LazyTensor, clouds, x, y, g)
        value = -eps * exponents.logsumexp(axis=1)[:, 0]
        if kind == "payload 64":
            _ = exponents.sumsoftmaxweight(payload, axis=1)
        return value

    return call


def _exponents(lazy: Any, clouds: Clouds, x: Any, y: Any, g: Any) -> Any:
    squares = ((lazy(x[:, None, :]) - lazy(y[None, :, :])) ** 2).sum(-1)
    return squares * (-clouds.scale / clouds.eps) - lazy(g[None, :, None]) * (1 / clouds.eps)


def _pykeops_derivatives(clouds: Clouds, kind: str) -> Call:
    import torch as library  # pyright: ignore[reportMissingImports]
    from pykeops.torch import LazyTensor

    x, y, g = (library.tensor(a) for a in clouds[:3])

    def call() -> np.ndarray:
        inputs = [a.clone().requires_grad_(kind == "gradient" or a is x) for a in (x, y, g)]
        value = -clouds.eps * _exponents(LazyTensor, clouds, *inputs).logsumexp(dim=1)[:, 0]
        if kind == "gradient":
            library.autograd.grad(value.sum(), inputs)
        else:
            (slope,) = library.autograd.grad(value.sum(), inputs[:1], create_graph=True)
            library.autograd.grad(slope.sum(), inputs[:1])
        return value.detach().numpy()

    return call


def torch(clouds: Clouds, kind: str) -> Call:
    """Dense PyTorch: matrix-product distances and logsumexp, autograd in x, y and g."""
    import torch as library  # pyright: ignore[reportMissingImports]

    x, y, g = (library.tensor(a, requires_grad=kind == "gradient") for a in clouds[:3])
    eps, scale = clouds.eps, clouds.scale

    def call() -> np.ndarray:
        squares = (x * x).sum(1)[:, None] - 2 * x @ y.T + (y * y).sum(1)
        value = -eps * library.logsumexp(-(scale * squares + g) / eps, dim=1)
        if kind == "gradient":
            library.autograd.grad(value.sum(), (x, y, g))
        return value.detach().numpy()

    return call


def kernel_density(clouds: Clouds, kind: str) -> Call:
    """scikit-learn's tree-based KernelDensity with its default tolerances (exact); needs g = 0."""
    from sklearn.neighbors import KernelDensity

    n, d = clouds.y.shape
    width = np.sqrt(clouds.eps / (2 * clouds.scale))
    model = KernelDensity(bandwidth=float(width)).fit(clouds.y)
    constant = np.log(n) + 0.5 * d * np.log(2 * np.pi * width**2)
    return lambda: -clouds.eps * (model.score_samples(clouds.x) + constant)


_LOOP = """
#include <math.h>
#include <stdint.h>
#define B 64
static inline float power(float z) {
  z = z < -126.0f ? -126.0f : z;
  float k = __builtin_rintf(z), f = z - k;
  float p = 1.5435e-4f;
  p = p * f + 1.3398874e-3f; p = p * f + 9.6184373e-3f; p = p * f + 5.5503324e-2f;
  p = p * f + 2.4022648e-1f; p = p * f + 6.9314720e-1f; p = p * f + 1.0f;
  union { float f; int32_t i; } u; u.f = p; u.i += ((int32_t) k) << 23; return u.f;
}
/* One pass: the weights' sum at the stabiliser mu, which is given. x is (d, M), y (N, d). */
void sums(const float *x, const float *y, const float *h, const float *mu, float kappa, float *z, long m, long n) {
  #pragma omp parallel for schedule(static)
  for (long b = 0; b < m / B; b++) {
    float acc[B] = {0};
    for (long j = 0; j < n; j++) {
      #pragma omp simd
      for (int i = 0; i < B; i++) {
        float q = h[j];
        for (int k = 0; k < D; k++) { float t = x[k * m + b * B + i] - y[j * D + k]; q += t * t; }
        acc[i] += power(kappa * (mu[b * B + i] - q));
      }
    }
    for (int i = 0; i < B; i++) z[b * B + i] = acc[i];
  }
}
"""


def c_loop(clouds: Clouds, kind: str) -> Call:
    """A hand-written loop, compiled for this machine: the sums alone, their stabiliser given. The limit, no peer."""
    d = clouds.x.shape[1]
    folder = Path(tempfile.mkdtemp())
    (folder / "loop.c").write_text(_LOOP)
    command = ["cc", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC", f"-DD={d}"]
    subprocess.run([*command, "loop.c", "-o", "loop.so"], cwd=folder, check=True)
    run = ctypes.CDLL(str(folder / "loop.so")).sums
    x = np.ascontiguousarray(clouds.x.T)
    y, heights = np.ascontiguousarray(clouds.y), (clouds.g / clouds.scale).astype(np.float32)
    squares = (clouds.y**2).sum(1) + heights
    blocks = np.array_split(clouds.x, max(1, len(clouds.x) // 256))
    mu = np.concatenate([(b**2).sum(1) + (squares - 2 * b @ clouds.y.T).min(axis=1) for b in blocks]).astype(np.float32)
    kappa = clouds.scale * np.log2(np.e) / clouds.eps
    m, n = len(x[0]), len(y)
    z = np.zeros(m, np.float32)

    def pointer(a: np.ndarray) -> Any:
        return a.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def call() -> np.ndarray:
        arrays = [pointer(a) for a in (x, y, heights, mu)]
        run(*arrays, ctypes.c_float(kappa), pointer(z), ctypes.c_long(m), ctypes.c_long(n))
        return clouds.scale * mu - clouds.eps * np.log(z)

    return call


def peers_of(kind: str, clouds: Clouds) -> dict[str, Callable[[Clouds, str], Call]]:
    """The peers that are installed and can do this kind of workload."""
    found: dict[str, Callable[[Clouds, str], Call]] = {}
    small = clouds.pairs <= 2**28
    torch_too = importlib.util.find_spec("torch") is not None
    if importlib.util.find_spec("pykeops") and small and (torch_too or kind not in ("gradient", "hvp")):
        found["pykeops"] = pykeops
    if torch_too and kind in ("value", "gradient") and small:
        found["torch"] = torch
    if importlib.util.find_spec("sklearn") and kind == "density":
        found["sklearn"] = kernel_density
    if shutil.which("cc") and kind == "value" and small and clouds.x.shape[1] <= 16:
        found["C loop"] = c_loop
    return found
