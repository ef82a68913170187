"""Any DPP cvxpy problem as a lower level: the only file that imports cvxpy, and only when a `Cone` is built."""

import copy
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from scipy.sparse import csc_array, csr_array

from invhyper.lower import conic
from invhyper.problem import LowerLevel, NotConverged, Solution
from invhyper.strata.faces import Cones, Groups, Programme
from invhyper.theta import check_theta

REDUCING = ("symmetric", "PSD", "NSD", "diag", "hermitian", "sparsity")
DISCRETE = ("boolean", "integer", "complex", "imag")


class Cone(LowerLevel):
    """A disciplined parametrised (DPP) cvxpy problem, solved by Clarabel and differentiated on its active faces.

        x*(theta) = argmin_x f(x, theta)   subject to the problem's constraints,

    brought by cvxpy into 1/2 x.Px + q.x with b - Ax in zero, nonnegative and second-order cones; P, q, A, b are affine
    in theta.

    **Arguments**: `problem`: a `cvxpy.Problem`; `parameters`: its `cvxpy.Parameter`s that make up theta, each with a
    name; other parameters keep the value they have now; `variables`: the `cvxpy.Variable`s that make up x, each with a
    name. theta is {parameter name: value}, x is {variable name: array} (also for a single variable), each of its cvxpy
    shape. The user's problem is never solved nor written to.

    **Raises** TypeError or ValueError at construction: for what is not DPP, for "not differentiable here yet: ..."
    (semidefinite, exponential and power cones, integers), and for names. `solve` raises `NotConverged` for infeasible
    or unbounded programmes and for solutions that are not unique; with `throw=False` error is infinite and x NaN.

    >>> import cvxpy as cp, numpy as np, invhyper as ih
    >>> x, y = cp.Variable(2, name="x"), cp.Parameter(2, name="y")
    >>> cone = ih.Cone(cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [cp.sum(x) == 1, x >= 0]), [y], [x])
    >>> evaluation = ih.Implicit()(ih.Bilevel(cone, lambda x, theta: x["x"][0]), {"y": np.array([0.4, 0.2])})
    >>> print(np.round(evaluation.gradient["y"], 6))
    [ 0.5 -0.5]

    DPP: Agrawal et al. (2019), arXiv:1910.12430. Derivatives on faces: Bonnans and Shapiro (2000),
    doi:10.1007/978-1-4612-1394-9.
    """

    host = True
    numbers: "Numbers" = eqx.field(static=True)

    def __init__(self, problem, parameters, variables):
        self.numbers = _canonicalise(problem, list(parameters), list(variables))

    @property
    def keys(self):
        return tuple(self.numbers.parameters)

    def check(self, theta):
        """theta with array leaves of the parameters' shapes, or a ValueError that names what is wrong."""
        if isinstance(theta, dict):
            theta = {key: np.asarray(v) if isinstance(v, list | tuple) else v for key, v in theta.items()}
            for key, (shape, *_) in self.numbers.parameters.items():
                if key in theta and np.shape(theta[key]) != shape:
                    raise ValueError(f"theta {key!r} has shape {np.shape(theta[key])}: its cvxpy Parameter has {shape}")
        return check_theta(self, theta)

    def bounds(self, theta):
        limits = self.numbers.parameters
        return {key: limits[key].lower for key in theta}, {key: limits[key].upper for key in theta}

    def shape(self, theta):
        return {name: jax.ShapeDtypeStruct(shape, float) for name, (shape, _) in self.numbers.variables.items()}

    def objective(self, x, theta):
        """The problem's objective as written, in NumPy; a TypeError if it uses variables that x does not hold."""
        return self.numbers.objective(x, theta)

    def residual(self, x, theta):
        raise TypeError("Cone has its residual in primal and dual unknowns, not in x alone: use linearise")

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        numbers = self.numbers
        memo = start.memo if start is not None and isinstance(start.memo, conic.Memo) else None
        outcome = conic.solve(numbers.at(theta), numbers.groups, numbers.kept, memo, tol)
        if throw and not outcome.error <= tol:
            raise NotConverged(outcome.said)
        x = np.full(numbers.size, np.nan) if outcome.memo is None else outcome.memo.at.x
        return Solution(numbers.select(x), outcome.error, outcome.steps, outcome.said, outcome.memo)

    def linearise(self, solution, theta):
        numbers, memo = self.numbers, solution.memo
        if memo is None and any(np.any(np.isnan(leaf)) for leaf in solution.x.values()):
            return conic.undefined(theta)
        if not isinstance(memo, conic.Memo) or not conic.same(memo.programme, numbers.at(theta)):
            memo = self.solve(theta, start=solution).memo
        return conic.linearise(
            memo, numbers.select, numbers.select_transpose, numbers.push, numbers.pull, numbers.name_of
        )


class Entry(NamedTuple):
    """A parameter: its shape, where it starts in the parameter vector, and its bounds."""

    shape: tuple[int, ...]
    column: int
    lower: np.ndarray
    upper: np.ndarray


class Affine(NamedTuple):
    """A sparse matrix whose entries are affine in theta: entry (rows[k], columns[k]) is map[k] . (parameters, 1)."""

    rows: np.ndarray
    columns: np.ndarray
    map: csr_array
    shape: tuple[int, int]

    @classmethod
    def of(cls, tensor, shape):
        """From cvxpy's tensor, whose row i + shape[0] j holds entry (i, j)."""
        tensor = csr_array(tensor)
        tensor.eliminate_zeros()
        stored = np.flatnonzero(np.diff(tensor.indptr))
        return cls(stored % shape[0], stored // shape[0], tensor[stored], shape)

    def at(self, vector) -> csc_array:
        return csc_array((self.map @ vector, (self.rows, self.columns)), shape=self.shape)

    def pull(self, left, right) -> np.ndarray:
        """The transpose of vector -> left . matrix right."""
        return self.map.T @ (left[self.rows] * right[self.columns])


class Numbers:
    """P, q, A and b of a canonicalised problem as functions of theta, and the way back to the user's variables.

    Immutable after construction: nothing of the cvxpy problem is used later, except a private copy for its objective.
    """

    def __init__(self, programme, parameters, variables, fixed, names, objective):
        n = self.size = programme.x.size
        cones = programme.cone_dims
        m = cones.zero + cones.nonneg + sum(cones.soc)
        self.parameters, self.variables, self.objective = parameters, variables, objective
        self.cones = Cones(cones.zero, cones.nonneg, tuple(cones.soc))
        self.fixed = fixed
        self.P = None if programme.P is None else Affine.of(programme.P, (n, n))
        self.q = csr_array(programme.q)[:n]
        self.Ab = Affine.of(programme.A, (m, n + 1))
        rows = np.repeat(np.arange(len(names)), [constraint.size for constraint in programme.constraints])
        starts = np.sort(list(programme.var_id_to_col.values()))
        self.groups = Groups(rows, np.searchsorted(starts, np.arange(n), side="right") - 1)
        self.names = names
        spans = [np.arange(start, start + int(np.prod(shape))) for shape, start in variables.values()]
        self.kept = np.concatenate(spans)

    def vector(self, theta, constant: bool = True) -> np.ndarray:
        """The parameter vector (theta, fixed parameters, 1); without the constants for a direction."""
        vector = self.fixed.copy() if constant else np.zeros_like(self.fixed)
        for name, (_, column, *_) in self.parameters.items():
            values = np.asarray(theta[name], float).ravel(order="F")
            vector[column : column + values.size] = values
        return vector

    def at(self, theta) -> Programme:
        return Programme(*self._parts(self.vector(theta)), self.cones)

    def push(self, dtheta):
        return self._parts(self.vector(dtheta, constant=False))

    def _parts(self, vector):
        Ab = self.Ab.at(vector)
        P = csc_array((self.size, self.size)) if self.P is None else self.P.at(vector)
        return P, self.q @ vector, -Ab[:, : self.size], Ab[:, [self.size]].toarray().ravel()

    def pull(self, v, w, x, z):
        """The transpose of `push` on the cotangents v.(dP x + dq) + z.(dA v) + w.(db - dA x)."""
        total = self.q.T @ v
        if self.P is not None:
            total = total + self.P.pull(v, x)
        total = total + self.Ab.pull(w, np.append(x, 1.0)) - self.Ab.pull(z, np.append(v, 0.0))
        return {
            name: total[column : column + int(np.prod(shape))].reshape(shape, order="F")
            for name, (shape, column, *_) in self.parameters.items()
        }

    def select(self, x):
        return {
            name: x[start : start + int(np.prod(shape))].reshape(shape, order="F")
            for name, (shape, start) in self.variables.items()
        }

    def select_transpose(self, v):
        x = np.zeros(self.size)
        for name, (shape, start) in self.variables.items():
            x[start : start + int(np.prod(shape))] = np.asarray(v[name]).ravel(order="F")
        return x

    def name_of(self, faces, number: int) -> str:
        """Which constraint stands at the edge: its text, and whether its multiplier or its slack is the small one."""
        zero, nonneg, soc = self.cones
        if number < nonneg:
            row, state = zero + number, "multiplier" if faces.active[number] else "slack"
        else:
            block = number - nonneg
            row = zero + nonneg + sum(soc[:block])
            state = ("slack", "multiplier or length", "multiplier at the apex")[faces.blocks[block]]
        constraint = int(self.groups.rows[row])
        first = int(np.searchsorted(self.groups.rows, constraint))
        return f"{state} of {self.names[constraint]}, row {row - first}"


def _canonicalise(problem, parameters, variables) -> Numbers:
    import cvxpy as cp

    _check(cp, problem, parameters, variables)
    own = cp.Problem(problem.objective, problem.constraints)  # its own cache: no other Cone's, nor the user's
    data, chain, _ = own.get_problem_data(cp.CLARABEL)
    programme = data["param_prob"]
    dims = programme.cone_dims
    kinds = {"semidefinite": dims.psd, "exponential": dims.exp, "power": dims.p3d, "generalised power": dims.pnd}
    for kind, present in kinds.items():
        if present:
            raise ValueError(
                f"not differentiable here yet: the problem needs {kind} cones; Cone takes linear constraints, "
                "second-order cones and quadratic objectives"
            )
    if programme.dir_cones or programme.lower_bounds is not None or programme.lb_tensor is not None:
        raise ValueError("not differentiable here yet: cvxpy passed variable bounds outside the constraints")
    names = _texts(programme, problem)
    columns = programme.param_id_to_col
    fixed = np.zeros(programme.total_param_size + 1)
    fixed[columns[-1]] = 1.0
    chosen = {parameter.id for parameter in parameters}
    for parameter in problem.parameters():
        if parameter.id not in chosen:
            values = np.asarray(parameter.value, float).ravel(order="F")
            fixed[columns[parameter.id] : columns[parameter.id] + values.size] = values
    table = {p.name(): Entry(p.shape, columns[p.id], *_limits(p)) for p in parameters}
    renamed = {}
    for reduction in chain.reductions:
        renamed.update({old: new[0] for old, new in getattr(reduction, "var_id_map", {}).items()})
    offsets = programme.var_id_to_col
    places = {v.name(): (v.shape, offsets[renamed.get(v.id, v.id)]) for v in variables}
    return Numbers(programme, table, places, fixed, names, _Objective(problem, parameters, variables))


def _check(cp, problem, parameters, variables):
    if not isinstance(problem, cp.Problem):
        raise TypeError(f"Cone wants a cvxpy.Problem first; it was given a {type(problem).__name__}")
    for kind, given, known in (
        (cp.Parameter, parameters, problem.parameters()),
        (cp.Variable, variables, problem.variables()),
    ):
        word = kind.__name__
        for leaf in given:
            if not isinstance(leaf, kind):
                raise TypeError(f"Cone wants cvxpy {word}s; it was given a {type(leaf).__name__}")
            if leaf.id not in {other.id for other in known}:
                raise ValueError(f"the {word} {leaf.name()!r} does not occur in the problem")
        names = [leaf.name() for leaf in given]
        if not given:
            raise ValueError(f"Cone was given no {word}: at least one is wanted")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two {word}s are named {twice!r}: give each its own name=")
        for leaf in known:
            for attribute in DISCRETE + REDUCING:
                if leaf.attributes.get(attribute):
                    raise ValueError(f"not differentiable here yet: the {word} {leaf.name()!r} is declared {attribute}")
    for parameter in problem.parameters():
        if parameter.value is None and parameter.id not in {p.id for p in parameters}:
            raise ValueError(
                f"the Parameter {parameter.name()!r} has no value and is not in `parameters`: give it one, or list it"
            )
    if not problem.is_dcp():
        raise ValueError(
            "the problem is not convex by cvxpy's rules (problem.is_dcp() is False): Cone needs a DCP problem"
        )
    if not problem.is_dcp(dpp=True):
        raise ValueError(
            "the problem is not DPP (problem.is_dcp(dpp=True) is False): its data must be affine in the parameters; "
            "replace products of parameters by a new Parameter"
        )


def _limits(parameter):
    """Lower and upper bounds of a parameter, from the attributes it was declared with."""
    marks = parameter.attributes
    lower = np.full(parameter.shape, 0.0 if marks["nonneg"] or marks["pos"] else -np.inf)
    upper = np.full(parameter.shape, 0.0 if marks["nonpos"] or marks["neg"] else np.inf)
    if marks["bounds"] is not None:
        low, high = parameter.get_bounds()
        lower, upper = np.maximum(lower, low), np.minimum(upper, high)
    return lower, upper


def _texts(programme, problem) -> list[str]:
    """The text of each canonical constraint: the user's own where it is one of theirs."""
    own = {constraint.id: f"constraint {i}, {constraint}" for i, constraint in enumerate(problem.constraints)}
    texts = [own.get(constraint.id, f"the auxiliary constraint {constraint}") for constraint in programme.constraints]
    texts = [" ".join(text.split()) for text in texts]
    return [text if len(text) <= 100 else text[:97] + "..." for text in texts]


class _Objective:
    """The user's objective on a private copy of the problem, so that the user's values stay as they are."""

    def __init__(self, problem, parameters, variables):
        wanted = {v.name(): v.id for v in variables}
        self._problem = copy.deepcopy(problem)
        pairs = list(zip(problem.variables(), self._problem.variables(), strict=True))
        self._variables = {name: next(new for old, new in pairs if old.id == number) for name, number in wanted.items()}
        used = {v.id for v in self._problem.objective.variables()}
        self._missing = used - {v.id for v in self._variables.values()}
        wanted = {p.name(): p.id for p in parameters}
        pairs = list(zip(problem.parameters(), self._problem.parameters(), strict=True))
        self._parameters = {
            name: next(new for old, new in pairs if old.id == number) for name, number in wanted.items()
        }

    def __call__(self, x, theta) -> float:
        if self._missing:
            raise TypeError("Cone's objective uses variables that were not listed in `variables`: list them all")
        for leaves, values in ((self._variables, x), (self._parameters, theta)):
            for name, leaf in leaves.items():
                leaf.save_value(np.asarray(values[name], float))
        return float(self._problem.objective.value)
