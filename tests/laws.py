"""The law that every class of a kind obeys. `test_laws.py` runs them all; a new class is one line in its tables."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import invhyper as ih
from invhyper import tree
from invhyper.penalties import Penalty

H = 1e-5


def lower_level(lower: ih.LowerLevel, theta, tol: float = 1e-10):
    """|R(x*)| <= tol: as the solution says of itself, and against the residual that a change of 100 % would make.

    A second solve from the solution stays there.
    """
    theta = lower.check(theta)
    solution = ih.solve(lower, theta, tol=tol)
    assert isinstance(solution.result, str) and solution.result
    assert float(solution.error) <= tol, solution.result
    residual = compiled(lower, lower.residual)
    if _has(residual, solution.x, theta):
        rng = np.random.default_rng(0)
        noise = jax.tree.map(lambda leaf: rng.standard_normal(np.shape(leaf)), solution.x)
        twice_as_far = tree.axpy(tree.norm(solution.x) / tree.norm(noise), noise, solution.x)
        scale = float(tree.norm(residual(twice_as_far, theta)))
        assert float(tree.norm(residual(solution.x, theta))) <= 10 * tol * scale
    again = ih.solve(lower, theta, start=solution, tol=tol)
    moved = tree.norm(tree.subtract(again.x, solution.x))
    assert float(moved) <= 1e-6 * max(1.0, float(tree.norm(solution.x)))


def compiled(lower: ih.LowerLevel, function):
    """A method of x and theta as one program; that of a lower level which is solved on the host, as it is."""
    return function if lower.host else jax.jit(lambda x, theta: function(x, theta))


def minimiser(lower: ih.LowerLevel, theta, x, seed: int = 0):
    """No neighbour of x has a smaller objective, for problems without constraints."""
    rng = np.random.default_rng(seed)
    objective = compiled(lower, lower.objective)
    best = float(objective(x, theta))
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(5):
            step = jax.tree.map(lambda leaf: size * rng.standard_normal(np.shape(leaf)), x)  # noqa: B023
            assert float(objective(tree.axpy(1.0, step, x), theta)) >= best - 1e-12 * abs(best)


def hypergradient(method, problem: ih.Bilevel, theta, rtol: float = 1e-6, seed: int = 0, key=None, tol: float = 1e-11):
    """The slope along a random direction is the central difference of the values that the same method reports.

    `key`: the direction moves this part of theta alone.
    """
    theta = problem.lower.check(theta)
    rng = np.random.default_rng(seed)
    direction = jax.tree.map(lambda leaf: rng.standard_normal(np.shape(leaf)) * np.abs(leaf), theta)
    if key is not None:
        direction = {name: value if name == key else 0.0 * value for name, value in direction.items()}
    evaluation = method(problem, theta, tol=tol)
    slope = float(tree.dot(evaluation.gradient, direction))
    h = H
    for _ in range(8):
        sides = [tree.axpy(sign * h, direction, theta) for sign in (1.0, -1.0)]
        ends = [method(problem, side, tol=tol) for side in sides]
        strata = [stratum(problem.lower, *end) for end in zip((end.solution for end in ends), sides, strict=True)]
        if same(*strata):
            break
        h /= 4
    else:
        raise AssertionError(f"no h down to {h:.1e} keeps the stratum: choose another theta for this case")
    difference = (ends[0].value - ends[1].value) / (2 * h)
    size = max(abs(difference), float(tree.norm(evaluation.gradient)) * float(tree.norm(direction)) * 1e-2)
    assert abs(slope - difference) <= rtol * size, (slope, difference, h)
    assert evaluation.certificate.verdict
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(evaluation.gradient))


def dot_test(operator, seed: int = 0):
    """(A x) . y = x . (A^T y), in NumPy and in JAX, A is linear, and arrays come back as what they went in.

    The difference is relative to |A x| |y|: the dot product of two long random vectors is itself mostly cancellation.
    """
    rng = np.random.default_rng(seed)
    m, n = operator.shape
    shape_in, shape_out = getattr(operator, "shape_in", (n,)), getattr(operator, "shape_out", (m,))
    x, y, other = rng.standard_normal(shape_in), rng.standard_normal(shape_out), rng.standard_normal(shape_in)
    for to, kind in ((np.asarray, np.ndarray), (jnp.asarray, jax.Array)):
        image, back = operator @ to(x), operator.T @ to(y)
        assert isinstance(image, kind) and isinstance(back, kind)
        assert image.shape == shape_out and back.shape == shape_in
        scale = max(np.linalg.norm(image) * np.linalg.norm(y), np.linalg.norm(x) * np.linalg.norm(back))
        assert abs(np.vdot(image, y) - np.vdot(x, back)) <= 1e-12 * scale
        np.testing.assert_allclose(
            operator @ to(2.0 * x - other), 2.0 * (operator @ to(x)) - operator @ to(other), rtol=1e-11, atol=1e-12
        )


def prox(penalty, seed: int = 0):
    """p = prox(v) is the minimiser of a strongly convex function: every d costs at least 1/2 |d - p|^2 more.

    In NumPy and in JAX, for groups that vanish and groups that do not; the derivative is finite at zero.
    """
    rng = np.random.default_rng(seed)
    split = Penalty(ih.Identity(penalty.analysis.shape_out), penalty.groups, penalty.delta)
    v, step = rng.standard_normal(split.analysis.shape_in), rng.uniform(0.2, 1.5, split.shape)

    def cost(d):
        return 0.5 * float(np.sum((d - v) ** 2)) + float(split.value(d, step))

    p = split.prox(v, step)
    vanish = split.norms(p) == 0
    assert isinstance(p, np.ndarray) and np.any(vanish | (np.asarray(split.delta) > 0)) and not np.all(vanish)
    for size in (1e-6, 1e-3, 0.1, 1.0):
        for _ in range(10):
            d = p + size * rng.standard_normal(p.shape)
            assert cost(d) - cost(p) >= 0.5 * np.sum((d - p) ** 2) - 1e-13
    assert cost(0.0 * p) - cost(p) >= 0.5 * np.sum(p**2) - 1e-13
    traced = split.prox(jnp.asarray(v), jnp.asarray(step))
    assert isinstance(traced, jax.Array)
    np.testing.assert_allclose(traced, p, rtol=0, atol=1e-15)
    np.testing.assert_allclose(split.value(jnp.asarray(v), jnp.asarray(step)), split.value(v, step), rtol=1e-14)
    for point in (v, p, 0.0 * p):
        assert np.all(np.isfinite(jax.grad(split.value)(jnp.asarray(point), jnp.asarray(step))))


def optimiser(iteration: ih.Iteration, theta, loss, steps: int):
    """It ends where the loss has no slope, says how large the loss is there, and starts again from where it is told."""
    end = ih.layer(iteration, ih.Unrolled(steps))(theta)
    slope = jax.grad(loss)
    assert float(tree.norm(slope(end, theta))) <= 1e-8 * float(tree.norm(slope(tree.scale(0.0, end), theta)))
    again = iteration.init(theta, ih.Solution(end))
    np.testing.assert_array_equal(iteration.output(again), end)
    if iteration.measured == "loss":
        assert float(iteration.measure(again, theta, 0)) == float(loss(end, theta))


def iteration(process: ih.Iteration, lower: ih.LowerLevel, theta, tol: float = 1e-6):
    """Its fixed point is the solution of `lower`, which one more step does not move.

    An iteration that depends on t gets there in a thousand steps.
    """
    theta = jax.tree.map(jnp.asarray, lower.check(theta))
    x = np.asarray(ih.solve(lower, theta, tol=1e-11).x)
    if process.stationary:
        state = ih.solve(ih.FixedPoint(process), theta, tol=tol / 1000).memo
    else:
        walk = jax.jit(lambda state: jax.lax.fori_loop(0, 1000, lambda t, s: process.step(s, theta, t), state))
        state = walk(process.init(theta))
    for found in (process.output(state), process.output(process.step(state, theta, 1000))):
        assert np.shape(found) == np.shape(x)
        assert np.linalg.norm(found - x) <= tol * np.linalg.norm(x)


def linear_solver(solver, tol: float = 1e-10, seed: int = 0):
    """A z = rhs to `tol`, through the traced face and through the host face."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((12, 12))
    matrix, rhs = root @ root.T / 12 + np.eye(12), rng.standard_normal(12)
    operator = lx.MatrixLinearOperator(jnp.asarray(matrix), lx.positive_semidefinite_tag)
    for z in (solver.host(matrix, rhs, None, tol), solver.traced(operator, jnp.asarray(rhs), None, tol)):
        assert np.linalg.norm(matrix @ z - rhs) <= 1.01 * tol * np.linalg.norm(rhs)


def stratum(lower, solution, theta):
    """The stratum that the lower level reports at a solution; smooth problems have one for all."""
    return lower.linearise(solution, theta).stratum if lower.host else None


def same(a, b) -> bool:
    """Equality of strata: nested tuples of arrays, or None."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(u, v) for u, v in pairs)


def _has(function, *arguments) -> bool:
    try:
        function(*arguments)
    except (NotImplementedError, TypeError):
        return False
    return True
