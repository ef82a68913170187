"""Total variation, with one weight, one a pixel or one an edge, and its smooth relative."""

from collections.abc import Callable

from jaxtyping import Array, Float

from invhyper.lower.bregman import SumOfNorms, nonnegative_box
from invhyper.operators import Operator
from invhyper.penalties import TV, Huber, check_switch
from invhyper.problem import Iteration


class TotalVariation(SumOfNorms):
    """Least squares with total variation, for signals, images and volumes.

        x*(theta) = argmin_x  1/2 |K x - y|^2 + sum_i weight_i |(D x)_i|,    theta = {"weight"}

    D takes the differences x[i + e_k] - x[i] of neighbours along every axis. Anisotropic (the default): each has an
    absolute value of its own; isotropic: the differences of a pixel share a Euclidean norm.

    **Arguments**: `y`: the data, 1-D to 3-D. `forward`: K, an `Operator` (None: the identity), or a function
    theta -> Operator whose hyperparameters are tuned along. `isotropic`; `nonnegative`: x >= 0. `boundary`:
    "neumann" (no edge across the border), "periodic" or "zero". `solver`: a `SplitBregman`, `PDHG` or `DualFISTA`, made
    from a lower level with these operators (None: chosen).

    weight is a scalar; an image of weights of the shape of x (pixel (i, j) owns its edges to (i+1, j) and (i, j+1)); a
    coarser one that divides x into equal blocks, one weight a block; or one an edge, (ndim, *shape), anisotropic only.
    Absent edges have gradient zero.

    Raises ValueError for NaN, shapes, negative weights. With K = I the `error` of a solution is the root of twice the
    duality gap over |y|, so |x - x*| <= error |y|.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0]))
    >>> ih.solve(lower, {"weight": 0.2}).x.round(9).tolist()
    [0.1, 0.1, 0.9, 0.9]
    >>> problem = ih.Bilevel(lower, ih.Truth(np.array([0.0, 0.0, 1.0, 1.0])))
    >>> round(float(ih.Implicit()(problem, {"weight": 0.2}).gradient["weight"]), 9)
    0.2

    Rudin, Osher and Fatemi (1992), doi:10.1016/0167-2789(92)90242-F; Goldstein and Osher (2009), doi:10.1137/080725891.
    """

    def __init__(
        self,
        y: Float[Array, "..."],
        forward: Operator | Callable | None = None,
        isotropic: bool = False,
        nonnegative: bool = False,
        *,
        boundary: str = "neumann",
        solver: Iteration | None = None,
    ):
        box = nonnegative_box("TotalVariation", nonnegative)
        self._set(y, {"weight": TV(isotropic, boundary)}, forward, box, solver)


class HuberTV(SumOfNorms):
    """Total variation that is quadratic for small differences, so that slopes do not become stairs.

        x*(theta) = argmin_x  1/2 |K x - y|^2 + sum_i weight_i h(|(D x)_i|),    theta = {"weight"},
        h(t) = t^2 / (2 delta) for t <= delta, t - delta / 2 above

    **Arguments**: as `TotalVariation`; `delta`: the difference at which h turns linear, in the units of x.

    >>> import numpy as np, invhyper as ih
    >>> ih.solve(ih.HuberTV(np.array([0.0, 1.0]), delta=0.5), {"weight": 0.5}).x.round(9).tolist()
    [0.333333333, 0.666666667]

    Huber (1964), doi:10.1214/aoms/1177703732; as a regulariser of images: Werlberger et al. (2009),
    doi:10.5244/C.23.108.
    """

    def __init__(
        self,
        y: Float[Array, "..."],
        forward: Operator | Callable | None = None,
        delta: float = 0.01,
        isotropic: bool = False,
        nonnegative: bool = False,
        *,
        boundary: str = "neumann",
        solver: Iteration | None = None,
    ):
        box = nonnegative_box("HuberTV", nonnegative)
        penalty = Huber(None, delta, 0 if check_switch("HuberTV", "isotropic", isotropic) else None, boundary)
        self._set(y, {"weight": penalty}, forward, box, solver)
