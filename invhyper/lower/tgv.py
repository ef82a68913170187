"""Total generalised variation of second order: piecewise affine instead of piecewise constant."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from invhyper.lower.bregman import SumOfNorms
from invhyper.operators import Differences, Operator
from invhyper.operators.adapters import from_scipy
from invhyper.penalties import Penalty
from invhyper.problem import Iteration


class TGV(SumOfNorms):
    """Least squares with the total generalised variation of second order.

        x*(theta) = argmin_x min_v  1/2 |K x - y|^2 + sum_i weight_i |(D x - v)_i| + sum_i weight2_i |(E v)_i|,
        theta = {"weight", "weight2"}: each a scalar or an image of weights, positive

    D takes forward differences, v is a vector field on the edges, E its symmetrised derivative by backward differences;
    |.| is the Euclidean norm of a pixel's vector and the Frobenius norm of its matrix. Affine images cost nothing.

    **Arguments**: as `TotalVariation`. `field(solution)` gives v.

    >>> import numpy as np, invhyper as ih
    >>> ramp = np.array([1.0, 2.0, 3.0, 4.0])
    >>> ih.solve(ih.TGV(ramp), {"weight": 1.0, "weight2": 1.0}).x.round(7).tolist()
    [1.0, 2.0, 3.0, 4.0]

    Bredies, Kunisch and Pock (2010), doi:10.1137/090769521.
    """

    def __init__(
        self,
        y: Float[Array, "..."],
        forward: Operator | Callable | None = None,
        *,
        solver: Iteration | None = None,
    ):
        shape = tuple(np.shape(y)) if not isinstance(forward, Operator) else None
        shape = tuple(forward.shape_in or np.shape(y)) if shape is None else shape
        first, second = gradient_less_field(shape), symmetrised(shape)
        penalties = {"weight": Penalty(first, 0), "weight2": Penalty(second, 0)}
        self._set(y, penalties, forward, None, solver, unknowns=first.shape_in)

    def check(self, theta):
        theta = super().check(theta)
        for key in self.penalties:
            if not isinstance(theta[key], jax.core.Tracer) and np.any(theta[key] == 0):
                raise ValueError(
                    f"theta {key!r} = 0: TGV's vector field is not unique there and has no derivative; give it a "
                    "positive weight, or use TotalVariation"
                )
        return theta

    def forward_at(self, theta):
        forward = super().forward_at(theta)
        return forward @ First(self.unknowns(theta))

    def image(self, z):
        return z[0]

    def embed(self, x):
        xp = jnp if isinstance(x, jax.Array) else np
        return xp.concatenate([x[None], xp.zeros((x.ndim, *x.shape), x.dtype)])

    def field(self, solution) -> Float[Array, "ndim ..."]:
        """v at a solution that `solve` returned."""
        return solution.memo.polished.z.reshape(-1, *solution.x.shape)[1:]

    def objective(self, x, theta, field=None):
        """The objective at x and the vector field v; `field(solution)` gives the best v at a solution."""
        if field is None:
            raise TypeError("the objective of TGV is a function of x and v: pass field=lower.field(solution)")
        z = jnp.concatenate([jnp.asarray(x)[None], jnp.asarray(field)])
        misfit = self.forward_at(theta).mv(z) - jnp.asarray(self.y)
        return 0.5 * jnp.sum(misfit**2) + sum(p.value(z, theta[key]) for key, p in self.penalties.items())


class First(Operator):
    """z -> z[0]: the image among the unknowns."""

    shape_in: tuple[int, ...] = eqx.field(static=True)

    @property
    def shape_out(self):
        return self.shape_in[1:]

    def _forward(self, x, out):
        return x[0]

    def _adjoint(self, y, out):
        xp = jnp if isinstance(y, jax.Array) else np
        return xp.concatenate([y[None], xp.zeros((self.shape_in[0] - 1, *y.shape), y.dtype)])

    def to_scipy(self):
        n = int(np.prod(self.shape_out))
        return scipy.sparse.csr_array(scipy.sparse.eye_array(n, n * self.shape_in[0]))


def gradient_less_field(shape) -> Operator:
    """(u, v) -> D u - v on the edges that exist; zero across the border."""
    D = Differences(shape).to_scipy()
    present = scipy.sparse.diags_array((np.diff(D.indptr) > 0).astype(float))
    matrix = scipy.sparse.csr_array(scipy.sparse.hstack([D, -present]))
    matrix.eliminate_zeros()
    return from_scipy(matrix, (1 + len(shape), *shape), (len(shape), *shape))


def symmetrised(shape) -> Operator:
    """(u, v) -> the symmetric part of v's derivative: rows k <= l, those off the diagonal times sqrt(2)."""
    n, count = int(np.prod(shape)), len(shape)
    D = Differences(shape).to_scipy()
    backward = []
    for axis in range(count):
        # The difference to the pixel before: the forward one, moved by a pixel.
        step = D[axis * n : (axis + 1) * n].tocoo()
        stride = int(np.prod(shape[axis + 1 :]))
        backward.append(scipy.sparse.csr_array((step.data, (step.row + stride, step.col)), shape=(n, n)))
    blocks, empty = [], scipy.sparse.csr_array((n, n))
    for k in range(count):
        for l in range(k, count):
            row = [empty] * (1 + count)
            if k == l:
                row[1 + k] = backward[k]
            else:
                row[1 + k], row[1 + l] = backward[l] / np.sqrt(2.0), backward[k] / np.sqrt(2.0)
            blocks.append(scipy.sparse.hstack(row))
    matrix = scipy.sparse.csr_array(scipy.sparse.vstack(blocks))
    return from_scipy(matrix, (1 + count, *shape), (len(blocks), *shape))
