"""A regression matrix on the host: sample weights applied, columns centred where an intercept is fitted."""

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from invhyper.operators.sparse import Sparse


class Design:
    """The matrix A~ = A - 1 m^T with the weights W of the samples, never formed as a whole.

    m holds the weighted means of the columns if an intercept is fitted, else zeros: eliminating the intercept from a
    least-squares fit is centring the columns and y. A sparse A stays sparse.

    **Arguments**: `A` (n, p), an array or a `Sparse`; `sample_weight` (n,) or None (ones); `intercept`.
    """

    def __init__(self, A, sample_weight: Float[np.ndarray, " n"] | None = None, intercept: bool = False):
        self.source = A
        self.sparse = isinstance(A, Sparse)
        self.matrix = A.to_scipy().tocsc() if self.sparse else A
        self.sample_weight = sample_weight
        self.shape = self.matrix.shape
        self.total = float(self.shape[0] if sample_weight is None else sample_weight.sum())
        self.intercept = intercept
        self._means = self._spread = None

    def weigh(self, r):
        """W r, for a vector or the columns of a matrix."""
        if self.sample_weight is None:
            return r
        return (self.sample_weight if r.ndim == 1 else self.sample_weight[:, None]) * r

    @property
    def means(self) -> Float[np.ndarray, " p"]:
        """Weighted means of the columns."""
        if self._means is None:
            self._means = self.matrix.T @ self.weigh(np.ones(self.shape[0])) / self.total
        return self._means

    @property
    def spread(self) -> Float[np.ndarray, " p"]:
        """Weighted standard deviations of the columns (1 for a constant column)."""
        if self._spread is None:
            variance = self._squares() / self.total - self.means**2
            varies = variance > 1e-14 * self.means**2
            self._spread = np.sqrt(np.where(varies, variance, 1.0))
        return self._spread

    def _squares(self):
        if self.sparse:
            return self.matrix.power(2).T @ self.weigh(np.ones(self.shape[0]))
        if self.sample_weight is None:
            return np.einsum("ij,ij->j", self.matrix, self.matrix)
        return np.einsum("i,ij,ij->j", self.sample_weight, self.matrix, self.matrix)

    def centre(self, y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """y less its weighted mean, if an intercept is fitted."""
        return y - self.mean_of(y) if self.intercept else y

    def mean_of(self, y: Float[np.ndarray, " n"]) -> float:
        """Weighted mean of y."""
        return float(self.weigh(y).sum() / self.total)

    def correlate(self, r: Float[np.ndarray, " n"]) -> Float[np.ndarray, " p"]:
        """A~^T W r, one pass over A."""
        weighted = self.weigh(r)
        image = self.matrix.T @ weighted
        return image - self.means * weighted.sum() if self.intercept else image

    def columns(self, chosen: Int[np.ndarray, " k"]):
        """The chosen columns of A~ (of A where it is sparse: `gram` and `predict` see to the centring)."""
        if self.sparse:
            return self.matrix[:, chosen]
        picked = np.asfortranarray(self.matrix[:, chosen])
        if self.intercept:
            picked -= self.means[chosen]
        return picked

    def gram(self, left, right, chosen_left, chosen_right):
        """A~_left^T W A~_right from what `columns` gave; sparse if A is and no intercept makes it dense."""
        product = left.T @ self.weigh(right) if not self.sparse else self._sparse_gram(left, right)
        if self.sparse and self.intercept:
            return product.toarray() - self.total * np.outer(self.means[chosen_left], self.means[chosen_right])
        return product

    def _sparse_gram(self, left, right):
        if self.sample_weight is not None:
            right = scipy.sparse.diags_array(self.sample_weight) @ right
        return left.T @ right

    def predict(self, columns, chosen, x):
        """A~_chosen x."""
        image = columns @ x
        return image - self.means[chosen] @ x if self.sparse and self.intercept else image

    def correlate_with(self, columns, chosen, r):
        """A~_chosen^T W r."""
        weighted = self.weigh(r)
        image = columns.T @ weighted
        return image - self.means[chosen] * weighted.sum() if self.sparse and self.intercept else image
