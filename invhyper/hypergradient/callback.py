"""x*(theta) as a custom_vjp: host lower levels behind a callback, traced ones compiled in."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from invhyper import tree
from invhyper.hypergradient.adjoint import adjoint_tol, check_adjoint, solve_adjoint
from invhyper.problem import CONVERGED, LowerLevel, NotConverged, Solution, sentence


def implicit_layer(lower: LowerLevel, method, tol: float) -> Callable[[PyTree], PyTree]:
    """The layer whose derivative is the adjoint on the stratum."""
    arrays, static = eqx.partition(lower, _is_inexact)
    static = jax.tree.map(lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, static)
    run = (_host_forward, _host_backward) if lower.host else (_traced_forward, _traced_backward)
    forward, backward = (_closures_refused(function, type(lower).__name__) for function in run)

    @jax.custom_vjp
    def solve(arrays, theta):
        return forward(static, arrays, theta, tol)[0]

    def solve_forward(arrays, theta):
        wanted = _perturbed_fields(arrays)
        arrays, theta = (jax.tree.map(lambda p: p.value, t, is_leaf=_is_primal) for t in (arrays, theta))
        _refuse(lower, wanted)
        x, solution = forward(static, arrays, theta, tol)
        return x, (arrays, theta, solution)

    def solve_backward(kept, cotangent):
        arrays, theta, solution = kept
        return backward(static, arrays, theta, solution, cotangent, method, tol)

    solve.defvjp(solve_forward, solve_backward, symbolic_zeros=True)

    def x_of_theta(theta):
        theta = jax.tree.map(jnp.asarray, lower.check(theta))
        return solve(jax.tree.map(jnp.asarray, arrays), theta)

    return x_of_theta


def _closures_refused(function, name: str):
    """The function, with JAX's complaint about a tracer from outside said in words that help."""

    def run(*arguments):
        try:
            return function(*arguments)
        except jax.errors.UnexpectedTracerError:
            raise TypeError(
                f"a function in {name} closes over an array that is being differentiated or batched: "
                "make it a part of theta, or a field of an eqx.Module with a __call__"
            ) from None

    return run


def _is_inexact(leaf) -> bool:
    return eqx.is_inexact_array(leaf)


def _is_primal(leaf) -> bool:
    return isinstance(leaf, jax.custom_derivatives.CustomVJPPrimal)


def _is_zero(leaf) -> bool:
    return isinstance(leaf, jax.custom_derivatives.SymbolicZero)


def _instantiated(leaf):
    return jnp.zeros(leaf.shape, leaf.dtype) if _is_zero(leaf) else leaf


def _perturbed_fields(arrays) -> set[str]:
    """Dotted names of the arrays of the lower level that the caller differentiates."""
    found = jax.tree_util.tree_leaves_with_path(arrays, is_leaf=_is_primal)
    return {jax.tree_util.keystr(path, simple=True, separator=".") for path, leaf in found if leaf.perturbed}


def _field(path) -> str:
    return jax.tree_util.keystr(path[:1], simple=True)


def _refuse(lower, wanted):
    if lower.host:
        refused = sorted({name.split(".")[0] for name in wanted} - set(lower.data))
        offered = "fields it can: " + (", ".join(map(repr, lower.data)) or "none")
    else:
        refused = sorted(name for name in wanted if name.startswith(lower.constant))
        offered = "nor in any other of " + ", ".join(map(repr, lower.constant))
    if refused:
        raise TypeError(
            f"{type(lower).__name__} gives no derivative in its field {refused[0]!r} ({offered}): "
            "stop_gradient it, or differentiate in theta alone"
        )


def _traced_forward(static, arrays, theta, tol):
    lower = eqx.combine(arrays, static)
    solution = lower.solve(theta, start=lower.cold_start(theta), tol=tol, throw=False)
    spent = (solution.error, solution.steps, solution.result)

    def verify(spent, theta):
        lower.check(jax.tree.map(np.asarray, theta))
        if int(spent[2]) != CONVERGED:
            raise NotConverged(sentence(lower, Solution(None, *spent), tol).result)

    bad = (solution.result != CONVERGED) | _outside(lower, theta)
    x = _raise_where(bad, solution.x, verify, (spent, theta))
    return x, Solution(x, memo=solution.memo)


def _traced_backward(static, arrays, theta, solution, cotangent, method, tol):
    lower = eqx.combine(arrays, static)
    linearisation = lower.linearise(solution, theta)
    cotangent = jax.tree.map(_instantiated, cotangent, is_leaf=_is_zero)
    rhs = linearisation.P_transpose(cotangent)
    z, residual = solve_adjoint(linearisation, rhs, method.linear_solver, None, tol, host=False)
    most = adjoint_tol(method.linear_solver, tol)

    def verify(residual):
        check_adjoint(float(residual), most)

    z = _raise_where(~(residual <= most), z, verify, (residual,))
    _, pull = jax.vjp(lambda arrays: eqx.combine(arrays, static).defect(solution, theta), arrays)
    of_arrays = pull(tree.scale(-1.0, z))[0]
    return of_arrays, tree.scale(-1.0, linearisation.B_transpose(z))


def _raise_where(bad, x, verify, arguments):
    """x; where `bad` is true, `verify(*arguments)` runs on the host and raises its sentence."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)

    def report(bad, x, *arguments):
        if bad:
            verify(*arguments)
        return x

    def call(operands):
        return jax.pure_callback(report, shapes, bad, *operands, vmap_method="sequential")

    return jax.lax.cond(bad, call, lambda operands: operands[0], (x, *arguments))


def _outside(lower, theta):
    """Whether a value of theta is not finite or beyond its bounds, in traced code."""
    limits = zip(jax.tree.leaves(theta), *map(jax.tree.leaves, lower.bounds(theta)), strict=True)
    return ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(v) & (v >= low) & (v <= high)) for v, low, high in limits]))


def _host_forward(static, arrays, theta, tol):
    shapes = _output_shape(static, arrays, theta)

    def solve(arrays, theta):
        lower, theta = _rebuild(static, arrays, theta)
        return jax.tree.map(lambda v, s: np.asarray(v, s.dtype), _solved(lower, theta, None, tol).x, shapes)

    x = jax.pure_callback(solve, shapes, arrays, theta, vmap_method="sequential")
    return x, Solution(x)


def _host_backward(static, arrays, theta, solution, cotangent, method, tol):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype), (arrays, theta))

    def adjoint(arrays, theta, x, cotangent):
        lower, theta = _rebuild(static, arrays, theta)
        solution = _solved(lower, theta, Solution(jax.tree.map(np.asarray, x)), tol)
        linearisation = lower.linearise(solution, theta)
        rhs = linearisation.P_transpose(jax.tree.map(np.asarray, cotangent))
        z, residual = solve_adjoint(linearisation, rhs, method.linear_solver, None, tol, host=True)
        check_adjoint(residual, adjoint_tol(method.linear_solver, tol))
        of_data = {} if linearisation.data_transpose is None else linearisation.data_transpose(z)
        return _place(arrays, of_data), tree.scale(-1.0, linearisation.B_transpose(z))

    def callback(*arguments):
        return jax.tree.map(lambda v, s: np.asarray(v, s.dtype), adjoint(*arguments), shapes)

    return jax.pure_callback(callback, shapes, arrays, theta, solution.x, cotangent, vmap_method="sequential")


def _place(arrays, of_data):
    """-D^T z in the fields that were given, zeros in the others (which were refused at the door if anyone asked)."""

    def cotangent(path, leaf):
        given = of_data.get(_field(path))
        return np.zeros(np.shape(leaf)) if given is None else -np.asarray(given)

    return jax.tree_util.tree_map_with_path(cotangent, arrays)


def _rebuild(static, arrays, theta):
    lower = eqx.combine(jax.tree.map(np.asarray, arrays), static)
    return lower, lower.check(jax.tree.map(np.asarray, theta))


def _solved(lower, theta, start, tol):
    solution = lower.solve(theta, start=start, tol=tol, throw=True)
    if not float(solution.error) <= tol:
        raise NotConverged(solution.result)
    return solution


def _output_shape(static, arrays, theta):
    lower = eqx.combine(arrays, static)
    return lower.shape(theta)
