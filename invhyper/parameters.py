"""Hyperparameters with names, scales, bounds and units; the map between natural theta and the flat vector of a search.

theta_i = s_i(u_i),    dF/du_i = s_i'(u_i) dF/dtheta_i
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, PyTree
from scipy.special import expit

from invhyper import tree
from invhyper.covariance import Cholesky
from invhyper.theta import check_start

Vector = Float[np.ndarray, " d"]
LOGIT_REACH = 30.0


@dataclass(frozen=True)
class Scale:
    """A monotone coordinate u of theta; `slope` is dtheta/du. All three take the value and the natural bounds."""

    name: str
    search: Callable
    natural: Callable
    slope: Callable


def _same(value, lower, upper):
    return value


def _one(u, lower, upper):
    return np.ones_like(u)


def _log(theta, lower, upper):
    with np.errstate(divide="ignore"):
        return np.log(theta)


def _exp(u, lower, upper):
    return np.exp(u)


def _log10(theta, lower, upper):
    with np.errstate(divide="ignore"):
        return np.log10(theta)


def _exp10(u, lower, upper):
    return 10.0**u


def _exp10_slope(u, lower, upper):
    return np.log(10.0) * 10.0**u


def _logit(theta, lower, upper):
    with np.errstate(divide="ignore"):
        return np.clip(np.log(theta - lower) - np.log(upper - theta), -LOGIT_REACH, LOGIT_REACH)


def _sigmoid(u, lower, upper):
    return lower + (upper - lower) * expit(u)


def _sigmoid_slope(u, lower, upper):
    return (upper - lower) * expit(u) * expit(-u)


LINEAR = Scale("linear", _same, _same, _one)
LOG = Scale("log", _log, _exp, _exp)
LOG10 = Scale("log10", _log10, _exp10, _exp10_slope)
LOGIT = Scale("logit", _logit, _sigmoid, _sigmoid_slope)
SCALES = {scale.name: scale for scale in (LINEAR, LOG, LOG10, LOGIT)}


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter (a number or an array): start and bounds in natural scale, search scale, unit."""

    start: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    unit: str = ""
    scale: Scale = LINEAR

    def __post_init__(self):
        name = self.scale.name
        start = _numbers(self.start, f"{name} start")
        for side in ("start", "lower", "upper"):
            value = _numbers(getattr(self, side), f"{name} {side}")
            if np.any(np.isnan(value)):
                raise ValueError(f"{name} {side} = {_shown(getattr(self, side))} holds NaN: a number is wanted")
            try:
                object.__setattr__(self, side, np.broadcast_to(value, start.shape).copy())
            except ValueError:
                raise ValueError(
                    f"{name} {side} has shape {value.shape}, start has shape {start.shape}: "
                    "a bound is a number or has the shape of the start"
                ) from None
        if not isinstance(self.unit, str):
            raise ValueError(f"{name} unit = {self.unit!r}: text is wanted, such as 'mm' or '1/day'")
        lower, upper = self.lower, self.upper
        if np.any(lower >= upper):
            raise ValueError(f"{name} lower = {_shown(lower)}, upper = {_shown(upper)}: lower < upper is wanted")
        if not np.all(np.isfinite(self.start)):
            raise ValueError(f"{name} start = {_shown(self.start)}: a finite number is wanted")
        if self.scale in (LOG, LOG10):
            if np.any(self.start <= 0):
                raise ValueError(f"{name} start = {_shown(self.start)}: a positive number is wanted; else use linear")
            if np.any(lower < 0):
                raise ValueError(f"{name} lower = {_shown(lower)}: a bound of at least 0 is wanted; else use linear")
        if self.scale == LOGIT:
            if not (np.all(np.isfinite(lower)) and np.all(np.isfinite(upper))):
                raise ValueError(f"logit wants finite bounds; lower = {_shown(lower)}, upper = {_shown(upper)}")
            if np.any(self.start <= lower) or np.any(self.start >= upper):
                raise ValueError(
                    f"logit start = {_shown(self.start)}: "
                    f"a number strictly between {_shown(lower)} and {_shown(upper)} is wanted"
                )
        check_start(f"{name} start", self.start, lower, upper)

    def search(self, theta) -> np.ndarray:
        """The search coordinate of a natural value."""
        return self.scale.search(np.asarray(theta, float), self.lower, self.upper)

    def natural(self, u) -> np.ndarray:
        """The natural value of a search coordinate, held within the bounds (rounding included)."""
        return np.clip(self.scale.natural(np.asarray(u, float), self.lower, self.upper), self.lower, self.upper)

    def slope(self, u) -> np.ndarray:
        """d natural / d search."""
        return self.scale.slope(np.asarray(u, float), self.lower, self.upper)

    def pull(self, u, gradient) -> np.ndarray:
        """dF/du from the natural gradient."""
        return self.slope(u) * np.asarray(gradient, float)

    @property
    def width(self) -> int:
        """How many numbers of the search vector stand for it."""
        return self.start.size

    def entries(self) -> list[str]:
        """What each of those numbers is called after the name."""
        return tree.entries(self.start)

    def listed(self, value) -> np.ndarray:
        """A natural value, one number for each of those."""
        return np.ravel(value)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the search coordinate."""
        return self.search(self.lower), self.search(self.upper)

    def __repr__(self):
        unit = f", unit={self.unit!r}" if self.unit else ""
        return f"{self.scale.name}({_shown(self.start)}, {_shown(self.lower)}, {_shown(self.upper)}{unit})"


def linear(start, lower=-np.inf, upper=np.inf, unit: str = "") -> Parameter:
    """A hyperparameter searched as it is: u = theta.

    **Arguments**: `start`: a number or an array; `lower`, `upper`: numbers or arrays of its shape; `unit`: text.
    Raises ValueError if the start is outside the bounds or anything is NaN; so do the other scales.

    >>> linear(0.5, 0, 1)
    linear(0.5, 0, 1)
    """
    return Parameter(start, lower, upper, unit, LINEAR)


def log(start, lower=0.0, upper=np.inf, unit: str = "") -> Parameter:
    """A positive hyperparameter searched in u = ln theta; arguments as for `linear`.

    >>> print(log(1.0, 1e-6, 1e2).search(1.0))
    0.0
    """
    return Parameter(start, lower, upper, unit, LOG)


def log10(start, lower=0.0, upper=np.inf, unit: str = "") -> Parameter:
    """A positive hyperparameter searched in u = log10 theta; arguments as for `linear`.

    >>> print(log10(1e-3, 1e-6, 1e2).search(1e-3))
    -3.0
    """
    return Parameter(start, lower, upper, unit, LOG10)


def logit(start, lower=0.0, upper=1.0, unit: str = "") -> Parameter:
    """A hyperparameter strictly inside (lower, upper), searched in u = ln((theta - lower) / (upper - theta)).

    u is kept within +-30, so that theta never reaches its ends (it stops 1e-13 of the interval short of them).

    >>> print(logit(0.5).search(0.5))
    0.0
    """
    return Parameter(start, lower, upper, unit, LOGIT)


class Parameters:
    """Named hyperparameters: each a scale (`log`, `linear`, `log10`, `logit`, `cholesky`) or a dict of them.

    The flat search vector u lists the entries in sorted order of the names. `start` is u at the start, `bounds` its
    lower and upper ends, `theta` the start in natural scale; `natural(u)` and `search(theta)` map between the two and
    `pull(u, gradient)` carries a natural gradient to the search scale.

    Raises ValueError for a keyword that is not a scale (a bare number: say on which scale it is to be searched).

    >>> import invhyper as ih
    >>> weights = ih.Parameters(l1=ih.log(1e-1, 1e-6, 1e2), l2=ih.linear(1.0, 0.0, 5.0))
    >>> weights.natural(weights.start)["l2"].item()
    1.0
    >>> weights.pull(weights.start, {"l1": 10.0, "l2": 3.0}).round(12).tolist()
    [1.0, 3.0]
    """

    def __init__(self, **named):
        if not named:
            raise ValueError("Parameters was given no name: at least one, such as l1=log(0.1, 1e-6, 1e2), is wanted")
        _check_scales(named, "")
        self._lay_out(named)

    @classmethod
    def of(cls, scales: PyTree) -> "Parameters":
        """Parameters from any tree whose leaves are scales."""
        self = cls.__new__(cls)
        self._lay_out(scales)
        return self

    @classmethod
    def plain(cls, theta: PyTree, bounds: tuple[PyTree, PyTree]) -> "Parameters":
        """Linear scale for every leaf of theta, within `bounds` = (lower, upper), trees like theta."""
        lower, upper = bounds
        return cls.of(jax.tree.map(lambda *leaf: Parameter(*leaf, scale=LINEAR), theta, lower, upper))

    def _lay_out(self, tree_of_parameters):
        self.tree = tree_of_parameters
        self.leaves, self._structure = jax.tree.flatten(tree_of_parameters)
        self.paths = tree.paths(tree_of_parameters)
        self._listed = ", ".join(self.paths) or "nothing"
        self._cuts = np.cumsum([leaf.width for leaf in self.leaves])[:-1]

    @property
    def theta(self) -> PyTree:
        """The start, in natural scale."""
        return jax.tree.unflatten(self._structure, [leaf.start.copy() for leaf in self.leaves])

    @property
    def start(self) -> Vector:
        """The start, on the search scale."""
        return self.search(self.theta)

    @property
    def bounds(self) -> tuple[Vector, Vector]:
        """Lower and upper bounds on the search scale."""
        sides = [leaf.bounds() for leaf in self.leaves]
        return _flat([low for low, _ in sides]), _flat([high for _, high in sides])

    @property
    def size(self) -> int:
        """Number of scalars."""
        return sum(leaf.width for leaf in self.leaves)

    @property
    def names(self) -> list[str]:
        """A name for every entry of the search vector: l1, or l2[0], l2[1], ... for arrays."""
        pairs = zip(self.paths, self.leaves, strict=True)
        return [path + index for path, leaf in pairs for index in leaf.entries()]

    def natural(self, u: Vector) -> PyTree:
        """theta at the search vector u."""
        parts = [leaf.natural(part) for leaf, part in self._parts(u)]
        return jax.tree.unflatten(self._structure, parts)

    def search(self, theta: PyTree) -> Vector:
        """The search vector of theta."""
        return _flat([leaf.search(value) for leaf, value in zip(self.leaves, self._aligned(theta), strict=True)])

    def pull(self, u: Vector, gradient: PyTree) -> Vector:
        """dF/du from the natural gradient at u: the chain rule."""
        pairs = zip(self._parts(u), self._aligned(gradient), strict=True)
        return _flat([leaf.pull(part, slope) for (leaf, part), slope in pairs])

    def _parts(self, u):
        u = np.asarray(u, float)
        if u.shape != (self.size,):
            raise ValueError(f"the search vector has shape {u.shape}: ({self.size},) is wanted, for {self._listed}")
        pieces = np.split(u, self._cuts)
        pairs = zip(self.leaves, pieces, strict=True)
        return [(leaf, u.reshape(leaf.start.shape) if leaf.width == leaf.start.size else u) for leaf, u in pairs]

    def _aligned(self, values: PyTree) -> list:
        leaves, structure = jax.tree.flatten(values)
        if structure != self._structure:
            raise ValueError(f"a tree with {self._listed} is wanted; {', '.join(tree.paths(values))} was given")
        for path, leaf, value in zip(self.paths, self.leaves, leaves, strict=True):
            if np.shape(value) != leaf.start.shape:
                raise ValueError(f"{path!r} has shape {np.shape(value)}: {leaf.start.shape} is wanted, as in the start")
        return leaves

    def table(self, theta: PyTree | None = None, limit: int = 12) -> str:
        """Aligned lines of name, scale, natural value, search value, bounds and unit (at theta; None: at the start)."""
        values = self._aligned(self.theta if theta is None else theta)
        pairs = list(zip(self.leaves, values, strict=True))
        natural, search = _flat([p.listed(v) for p, v in pairs]), _flat([p.search(v) for p, v in pairs])
        lower, upper = (_flat([p.listed(getattr(p, end)) for p in self.leaves]) for end in ("lower", "upper"))
        owner = [leaf for leaf in self.leaves for _ in range(leaf.width)]
        rows = [("name", "scale", "natural", "search", "lower", "upper", "unit")]
        for i in range(min(self.size, limit)):
            numbers = [f"{v:.6g}" for v in (natural[i], search[i], lower[i], upper[i])]
            rows.append((self.names[i], owner[i].scale.name, *numbers, owner[i].unit))
        widths = [max(len(row[j]) for row in rows) for j in range(7)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        if self.size > limit:
            lines.append(f"... and {self.size - limit} more")
        return "\n".join(lines)

    def __repr__(self):
        return "Parameters\n" + self.table()


def _check_scales(named: dict, path: str):
    for key, value in named.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            if not value:
                raise ValueError(f"Parameters {where!r} is an empty dict: at least one scale is wanted")
            _check_scales(value, where)
        elif not isinstance(value, Parameter | Cholesky):
            raise ValueError(
                f"Parameters {where!r} is {value!r}: a scale is wanted, "
                "such as log(0.1, 1e-6, 1e2), linear(0.5, 0, 1), log10(...), logit(...) or cholesky(...)"
            )


def _numbers(value, what: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {value!r}: a number or an array of numbers is wanted") from None


def _shown(value) -> str:
    value = np.asarray(value)
    if value.ndim == 0:
        return f"{float(value):g}"
    return np.array2string(value, precision=4, threshold=6, edgeitems=2, separator=", ")


def _flat(parts: list) -> Vector:
    return np.concatenate([np.ravel(np.asarray(part, float)) for part in parts]) if parts else np.zeros(0)
