"""One parametrised test for each law, and none of the public classes left out."""

import inspect

import cvxpy as cp
import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
import scipy.sparse

import invhyper as ih
from invhyper.linear_solvers import LinearSolver
from invhyper.operators import Sparse

RNG = np.random.default_rng(7)
A, A_VAL = RNG.standard_normal((12, 5)), RNG.standard_normal((9, 5))
X = np.array([2.0, -1.0, 0.0, 0.5, 0.0])
Y, Y_VAL = A @ X + 0.1 * RNG.standard_normal(12), A_VAL @ X + 0.1 * RNG.standard_normal(9)
IMAGE = np.add.outer([0.0, 0.0, 1.0, 1.5, 2.0], [0.0, 0.0, 0.0, 2.0, 2.0, 1.0]) + 0.3 * RNG.standard_normal((5, 6))

# name: (lower level, theta)
LOWER = {
    "Ridge": lambda: (ih.Ridge(A, Y), {"l2": np.array([0.1, 0.2, 0.3, 0.4, 0.5])}),
    "Logistic": lambda: (ih.Logistic(A, np.sign(Y), intercept=True), {"l2": 0.2}),
    "Smooth": lambda: (ih.Smooth(cosh_fit, jnp.zeros(5)), {"pull": 0.6, "to": np.linspace(-1.0, 1.0, 5)}),
    "ElasticNet": lambda: (ih.ElasticNet(A, Y), {"l1": 0.3, "l2": np.array([0.1, 0.2, 0.3, 0.4, 0.5])}),
    "BPDN": lambda: (ih.BPDN(A, Y, intercept=True), {"weight": 0.4}),
    "BasisPursuit": lambda: (ih.BasisPursuit(A, Y), {"epsilon": 0.6}),
    "Cone": lambda: (cone(), {"c": np.array([1.0, 0.4, -0.7]), "r": 0.8}),
    "BPDN constrained": lambda: (
        ih.BPDN(A, Y, equality=(np.ones((1, 5)), np.ones(1)), inequality=(np.eye(5)[:2], np.array([1.0, 3.0]))),
        {"weight": 0.4},
    ),
    "TotalVariation": lambda: (
        ih.TotalVariation(IMAGE),
        {"weight": 0.3 + 0.1 * np.random.default_rng(8).random((5, 6))},
    ),
    "TotalVariation nonnegative": lambda: (
        ih.TotalVariation(IMAGE - 1.0, ih.Blur(np.full((1, 3), 1 / 3), boundary="neumann"), True, True),
        {"weight": 0.1},
    ),
    "HuberTV": lambda: (ih.HuberTV(IMAGE, delta=0.2, isotropic=True), {"weight": 0.3}),
    "AnalysisL1": lambda: (ih.AnalysisL1(IMAGE, ih.Differences((5, 6), order=2)), {"weight": 0.3}),
    "Composite": lambda: (
        ih.Composite(IMAGE, {"jumps": ih.TV(isotropic=True), "size": ih.L1(ih.Identity((5, 6)))}),
        {"jumps": 0.2, "size": 0.3},
    ),
    "TGV": lambda: (ih.TGV(IMAGE), {"weight": 0.3, "weight2": 0.4}),
    "Calibration": lambda: (growth(), {"x0": 1.1, "about": np.array([0.6, 3.0])}),
    "Together": lambda: (ih.Together([ih.Ridge(A, Y), ih.Ridge(A_VAL, Y_VAL)]), {"l2": 0.7}),
    "Population": lambda: (ih.Population([ih.Ridge(A, Y), ih.Ridge(A + 0.1, 2 * Y)]), {"l2": 0.7}),
    "FixedPoint": lambda: (ih.FixedPoint(GradientSteps(jnp.asarray(A), jnp.asarray(Y))), {"l2": 0.7}),
}
# Minimisers without constraints: their objective has a word of its own.
UNCONSTRAINED = {"Ridge", "Logistic", "Smooth", "ElasticNet", "BPDN", "Together", "Population", "Calibration"}
UNCONSTRAINED |= {"TotalVariation", "HuberTV", "AnalysisL1", "Composite"}
HYPERGRADIENT = {
    "Implicit": lambda: ih.Implicit(),
    "Implicit direct": lambda: ih.Implicit(ih.Direct()),
    "Implicit CG": lambda: ih.Implicit(ih.CG()),
    "Implicit GMRES": lambda: ih.Implicit(ih.GMRES()),
    "Implicit Neumann": lambda: ih.Implicit(ih.Neumann(300)),
    "Unrolled": lambda: ih.Unrolled(7),
    "Forward": lambda: ih.Forward(7),
    "OneStep": lambda: ih.OneStep(),
}
SOLVERS = {
    "Direct": lambda: ih.Direct(),
    "CG": lambda: ih.CG(),
    "GMRES": lambda: ih.GMRES(),
    "Neumann": lambda: ih.Neumann(400),
}
MATRIX = Sparse.from_scipy(scipy.sparse.random_array((7, 5), density=0.4, rng=np.random.default_rng(1)))
KERNEL = np.random.default_rng(2).standard_normal((3, 4))
OPERATORS = {
    "Sparse": MATRIX,
    "Transposed": MATRIX.T,
    "Differences": ih.Differences((6, 5)),
    "Blur": ih.Blur(KERNEL, shape=(6, 5), boundary="neumann"),
    "Mask": ih.Mask(np.random.default_rng(3).random((6, 5)) > 0.3),
    "Identity": ih.Identity((6, 5)),
    "from_scipy": ih.from_scipy(MATRIX.to_scipy(), (5, 1), (7,)),
    "from_functions": ih.from_functions(lambda x: np.roll(2 * x, 1), lambda y: 2 * np.roll(y, -1), (6, 5), (6, 5)),
    "composition": ih.Blur(KERNEL[:1], shape=(6, 5), boundary="zero") @ ih.Mask(np.eye(6, 5, dtype=bool)),
}
PENALTIES = {
    "Penalty": ih.Penalty(ih.Differences((4, 5)), groups=np.random.default_rng(4).integers(0, 7, (2, 4, 5))),
    "TV": ih.TV(),
    "TV isotropic": ih.TV(isotropic=True),
    "L1": ih.L1(ih.Identity((4, 5))),
    "SmoothedL1": ih.SmoothedL1(ih.Identity((4, 5)), 0.4, np.random.default_rng(6).integers(0, 7, (4, 5))),
    "SmoothedTV": ih.SmoothedTV(1e-3, isotropic=True),
    "Huber": ih.Huber(delta=0.4),
    "Huber isotropic": ih.Huber(delta=np.random.default_rng(5).random((4, 5)), groups=0),
    "Huber groups": ih.Huber(ih.Identity((4, 5)), 0.4, np.random.default_rng(6).integers(0, 7, (4, 5))),
}
# name: the lower levels that it solves
ITERATIONS = {
    "SplitBregman": ("TotalVariation", "TotalVariation nonnegative", "Composite"),
    "DualFISTA": ("TotalVariation",),
    "PDHG": ("TotalVariation", "Composite"),
}
# name: (the process, theta): each is brought to the minimum of the same loss
OPTIMISERS = {
    "GradientDescent": lambda: (ih.GradientDescent(cosh_fit, jnp.zeros(5)), {"eta": 0.1}),
    "Momentum": lambda: (ih.Momentum(cosh_fit, jnp.zeros(5)), {"eta": 0.05, "beta": 0.5}),
    "AdamIteration": lambda: (
        ih.AdamIteration(cosh_fit, jnp.zeros(5), ih.Cosine(1500, key="alpha")),
        {"alpha": 0.1, "beta1": 0.5},
    ),
    "Optax": lambda: (ih.Optax(cosh_fit, jnp.zeros(5), lambda theta: optax.sgd(theta["rate"])), {"rate": 0.1}),
    "ProximalGradient": lambda: (
        ih.ProximalGradient(jax.grad(cosh_fit), lambda x, theta: x, jnp.zeros(5), 0.1),
        {},
    ),
}


def cone():
    """The projection of c on a ball of radius r in a half-space."""
    x, c, r = cp.Variable(3, name="x"), cp.Parameter(3, name="c"), cp.Parameter(name="r", nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.norm(x) <= r, cp.sum(x) >= 0.9])
    return ih.Cone(problem, [c, r], [x])


# The same functions for every calibration that is built: its programs are compiled once for all laws.
def growth_rhs(t, x, p, theta):
    return p[0] * x * (1 - x / p[1])


def growth_initial(p, theta):
    return theta["x0"]


def growth_observe(t, x, p, theta):
    return x


def growth_prior(p, theta):
    return jnp.sum((p - theta["about"]) ** 2)


def growth():
    """Logistic growth from x0, with priors about its rate and its capacity."""
    t = np.linspace(0.5, 6.0, 6)
    return ih.Calibration(
        growth_rhs, growth_initial, growth_observe, t, 4 / (1 + 3 * np.exp(-0.9 * t)) + 0.1 * np.sin(7 * t),
        noise=0.1, start=np.array([0.5, 5.0]), prior=growth_prior, rtol=1e-12, atol=1e-12,
    )  # fmt: skip


class NewtonStep(ih.Iteration):
    """x <- x - (A^T A + l2 I)^{-1} (A^T (A x - y) + l2 x): at its fixed point J = 0, where one step tells all."""

    A: jnp.ndarray
    y: jnp.ndarray

    def init(self, theta, start=None):
        return jnp.zeros(self.A.shape[1]) if start is None else jnp.asarray(start.x)

    def step(self, state, theta, t):
        hessian = self.A.T @ self.A + theta["l2"] * jnp.eye(state.size)
        return state - jnp.linalg.solve(hessian, self.A.T @ (self.A @ state - self.y) + theta["l2"] * state)

    def output(self, state):
        return state


class GradientSteps(ih.Iteration):
    """x <- x - step (A^T (A x - y) + l2 x): the fixed point is the ridge solution."""

    A: jnp.ndarray
    y: jnp.ndarray

    def init(self, theta, start=None):
        return jnp.zeros(self.A.shape[1]) if start is None else jnp.asarray(start.x)

    def step(self, state, theta, t):
        return state - 0.03 * (self.A.T @ (self.A @ state - self.y) + theta["l2"] * state)

    def output(self, state):
        return state


def cosh_fit(x, theta):
    """A loss of no particular kind, not quadratic."""
    return jnp.sum(jnp.cosh(0.3 * (A @ x - Y))) + theta["pull"] * jnp.sum((x - theta["to"]) ** 2)


def criterion(x, theta):
    """Smooth in x and in theta, for x of any structure."""
    distance = sum(jnp.sum((part - 0.3) ** 2) for part in jax.tree.leaves(x))
    return distance + 0.05 * sum(jnp.sum(v) for v in theta.values())


@pytest.mark.parametrize("name", LOWER)
def test_lower_level(name):
    lower, theta = LOWER[name]()
    laws.lower_level(lower, theta)


@pytest.mark.parametrize("name", sorted(UNCONSTRAINED))
def test_minimiser(name):
    lower, theta = LOWER[name]()
    laws.minimiser(lower, theta, ih.solve(lower, lower.check(theta), tol=1e-11).x)


@pytest.mark.parametrize("name", LOWER)
def test_implicit_hypergradient_of(name):
    lower, theta = LOWER[name]()
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower, criterion), theta)


@pytest.mark.parametrize("name", HYPERGRADIENT)
def test_hypergradient(name):
    lower, theta = LOWER["FixedPoint"]()
    if name == "OneStep":
        lower = ih.FixedPoint(NewtonStep(jnp.asarray(A), jnp.asarray(Y)))
    laws.hypergradient(HYPERGRADIENT[name](), ih.Bilevel(lower, criterion), theta)


@pytest.mark.parametrize("name", SOLVERS)
def test_linear_solver(name):
    laws.linear_solver(SOLVERS[name]())


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name):
    laws.dot_test(OPERATORS[name])


@pytest.mark.parametrize("name", PENALTIES)
def test_penalty(name):
    laws.prox(PENALTIES[name].at((4, 5)))


@pytest.mark.parametrize("name, of", [(name, of) for name, solved in ITERATIONS.items() for of in solved])
def test_iteration(name, of):
    lower, theta = LOWER[of]()
    laws.iteration(getattr(ih, name)(lower), lower, theta)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser(name):
    iteration, theta = OPTIMISERS[name]()
    laws.optimiser(iteration, {**theta, "pull": 0.6, "to": np.linspace(-1.0, 1.0, 5)}, cosh_fit, steps=1500)


def public(kind=object, home: str = "") -> set[str]:
    """Public names of one kind."""
    names = [name for name, module in ih._WHERE.items() if module.startswith(home)]
    things = {name: getattr(ih, name) for name in names}
    return {thing.__name__ for thing in things.values() if inspect.isclass(thing) and issubclass(thing, kind)}


def test_no_class_without_its_law():
    assert public(ih.LowerLevel) - {"LowerLevel"} == {name.split()[0] for name in LOWER}
    assert public(home="hypergradient") == {name.split()[0] for name in HYPERGRADIENT}
    assert public(LinearSolver) == set(SOLVERS)
    assert public(ih.Iteration, home="iterations") == {*ITERATIONS, *OPTIMISERS}
    assert {name for name, module in ih._WHERE.items() if module == "penalties"} <= set(PENALTIES)
    operators = {thing for thing in dir(ih.operators) if inspect.isclass(getattr(ih.operators, thing))}
    assert operators - {"Operator"} | public(home="operators") <= set(OPERATORS)
