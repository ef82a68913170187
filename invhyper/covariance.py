"""A covariance matrix as a search coordinate: the entries of its Cholesky factor, the diagonal in logarithms.

omega = L L^T,   u = (ln L_11, L_21, ln L_22, ...)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class _Named:
    name: str


@dataclass(frozen=True)
class Cholesky:
    """A positive definite matrix (d, d) on the scale of its Cholesky factor; `free`: the entries that are searched.

    Entries that are zero in the start stay zero: the matrix falls into blocks of the effects that covariances link.
    """

    start: Float[np.ndarray, "d d"]
    unit: str = ""
    scale: ClassVar = _Named("cholesky")

    def __post_init__(self):
        try:
            start = np.asarray(self.start, float)
        except (TypeError, ValueError):
            raise ValueError(f"cholesky start is {self.start!r}: a square matrix of numbers is wanted") from None
        if start.ndim != 2 or start.shape[0] != start.shape[1] or not start.size:
            raise ValueError(f"cholesky start has shape {start.shape}: a square matrix is wanted")
        if not np.all(np.isfinite(start)) or not np.allclose(start, start.T, rtol=1e-10, atol=0.0):
            raise ValueError(f"cholesky start = {start.tolist()}: a finite symmetric matrix is wanted")
        smallest = np.linalg.eigvalsh(start)[0]
        if not smallest > 0:
            raise ValueError(
                f"cholesky start = {start.tolist()} is not positive definite: its smallest eigenvalue is {smallest:.2g}"
            )
        count, block = connected_components(start != 0, directed=False)
        linked = block[:, None] == block[None, :]
        if np.any(linked & (start == 0)):
            i, j = np.argwhere(linked & (start == 0))[0]
            raise ValueError(
                f"cholesky start has a zero in entry ({i}, {j}), whose effects others link: make it a small number "
                "(then it is searched), or make more entries zero (blocks stay apart)"
            )
        object.__setattr__(self, "start", start)

    @property
    def free(self) -> Bool[np.ndarray, "d d"]:
        """The entries of L that are searched."""
        return np.tril(self.start != 0)

    @property
    def lower(self) -> np.ndarray:
        """Bounds of the entries, as tables show them."""
        return np.where(np.eye(len(self.start), dtype=bool), 0.0, -np.inf)

    @property
    def upper(self) -> np.ndarray:
        """Bounds of the entries, as tables show them."""
        return np.full(self.start.shape, np.inf)

    @property
    def width(self) -> int:
        """How many numbers of the search vector stand for the matrix."""
        return int(np.sum(self.free))

    def entries(self) -> list[str]:
        """What each of those numbers is called."""
        return [f"[{i},{j}]" for i, j in np.argwhere(self.free)]

    def listed(self, value) -> np.ndarray:
        """The entries of a matrix that stand where those of L do."""
        return np.asarray(value)[self.free]

    def search(self, theta) -> np.ndarray:
        """ln of the diagonal and the rest of L, row by row."""
        root = np.linalg.cholesky(np.asarray(theta, float))
        diagonal = np.eye(len(root), dtype=bool)
        return np.where(diagonal, np.log(np.where(diagonal, root, 1.0)), root)[self.free]

    def natural(self, u) -> np.ndarray:
        """L L^T"""
        root = self._root(u)
        return root @ root.T

    def pull(self, u, gradient) -> np.ndarray:
        """dF/du from dF/domega, the partial derivatives of a function of the whole matrix."""
        root, gradient = self._root(u), np.asarray(gradient, float)
        of_root = (gradient + gradient.T) @ root
        return np.where(np.eye(len(root), dtype=bool), of_root * root, of_root)[self.free]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """None: every factor gives a positive definite matrix."""
        return np.full(self.width, -np.inf), np.full(self.width, np.inf)

    def _root(self, u) -> np.ndarray:
        root = np.zeros(self.start.shape)
        root[self.free] = np.ravel(u)
        np.fill_diagonal(root, np.exp(np.diagonal(root)))
        return root

    def __repr__(self):
        unit = f", unit={self.unit!r}" if self.unit else ""
        return f"cholesky({self.start.tolist()}{unit})"


def cholesky(start, unit: str = "") -> Cholesky:
    """A covariance matrix searched in u = (ln L_11, L_21, ln L_22, ...), omega = L L^T: it stays positive definite.

    **Arguments**: `start` (d, d), symmetric and positive definite; entries that are zero stay zero, so that a diagonal
    start is searched as a diagonal matrix. Raises ValueError for any other start, and for zeros between effects that
    other entries link.

    >>> import numpy as np
    >>> omega = cholesky(np.array([[4.0, 2.0], [2.0, 5.0]]))
    >>> omega.search(omega.start).round(4).tolist()
    [0.6931, 1.0, 0.6931]
    >>> cholesky(np.eye(2)).width
    2
    """
    return Cholesky(start, unit)
