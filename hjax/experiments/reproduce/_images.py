"""Images with labels for E and F: MNIST and CIFAR-10 where they are, else the digits of scikit-learn.

Nothing is fetched unless asked for. What is fetched, or found in pooch's folder for hjax, must have the right SHA-256.
"""

import hashlib
import importlib.util
import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

DIGITS = "scikit-learn digits (1,797 images of 8 x 8 pixels), in place of"


class Origin(NamedTuple):
    """A file on the net and how it is known."""

    title: str
    file: str
    url: str
    sha256: str


MNIST = Origin(
    "MNIST",
    "mnist.npz",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
)
CIFAR = Origin(
    "CIFAR-10",
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


class Images(NamedTuple):
    """Pixels in [0, 1] `(n, pixels)` and labels `(n,)`, to train on and to test on."""

    x: np.ndarray
    labels: np.ndarray
    x_test: np.ndarray
    labels_test: np.ndarray


def folder() -> Path:
    """Where pooch keeps downloads for hjax."""
    try:
        import pooch
    except ImportError as error:
        raise ValueError("data sets are fetched by pooch, which is missing; pip install 'hjax[cli]'.") from error
    return Path(pooch.os_cache("hjax"))


def present(origin: Origin) -> bool:
    """Whether the file is there, whole."""
    if importlib.util.find_spec("pooch") is None:
        return False
    path = folder() / origin.file
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == origin.sha256


def source(origin: Origin, download: bool) -> str:
    """Which images there will be, in words; fetches the file if asked to.

    **Raises:** `OSError`, with one sentence, if it cannot be fetched.
    """
    if not present(origin):
        if not download:
            return f"{DIGITS} {origin.title}, which is not on this machine (--download fetches it)"
        _fetch(origin)
    return f"{origin.title}, sha256 {origin.sha256[:16]}"


def _fetch(origin: Origin) -> None:
    where = folder()
    import pooch

    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(origin.url, f"sha256:{origin.sha256}", origin.file, where)
    except Exception as error:  # pooch and requests raise many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(f"{origin.title} cannot be fetched from {origin.url}: {reason[:200]}.") from error


def load(origin: Origin) -> Images:
    """The images if they are present, else the digits."""
    if not present(origin):
        return _digits()
    content = (folder() / origin.file).read_bytes()
    return _mnist(content) if origin.file.endswith(".npz") else _cifar(content)


def _digits() -> Images:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, labels = pixels[order] / 16.0, labels[order]
    return Images(x[:1437], labels[:1437], x[1437:], labels[1437:])


def _mnist(content: bytes) -> Images:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        x, labels, x_test, labels_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    flat = (a.reshape(len(a), -1) / 255.0 for a in (x, x_test))
    return Images(next(flat), labels.astype(int), next(flat), labels_test.astype(int))


def _cifar(content: bytes) -> Images:
    """Six files of records, one byte of label and 3,072 of pixels."""
    parts: dict[bool, list[np.ndarray]] = {False: [], True: []}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            if member.name.endswith(".bin"):
                file = archive.extractfile(member)
                assert file is not None
                records = np.frombuffer(file.read(), np.uint8).reshape(-1, 3073)
                parts["test" in member.name].append(records)
    training, test = np.concatenate(parts[False]), np.concatenate(parts[True])
    x, x_test = (a[:, 1:].astype(np.float32) / 255.0 for a in (training, test))
    return Images(x, training[:, 0].astype(int), x_test, test[:, 0].astype(int))


def principal_components(images: Images, count: int) -> Images:
    """The same images as their scores on the first `count` components of the training images."""
    mean = images.x.mean(axis=0)
    centred = images.x - mean
    # Eigenvectors of the covariance, largest first: in the data sets pixels are fewer than images.
    pixels = centred.shape[1]
    basis = eigh(centred.T @ centred / len(centred), subset_by_index=[pixels - count, pixels - 1])[1][:, ::-1]
    return images._replace(x=centred @ basis, x_test=(images.x_test - mean) @ basis)
