"""How far a hypergradient taken at an approximate solution is from the exact one: an estimate, and a guaranteed bound.

    estimate   |g(x) - g(x - dx)|,   A dx = R(x): what one Newton step changes; the adjoint is solved anew at x - dx
    bound      L_B e |z| + (|B| + L_B e) (L_C e + L_A e |z| + |r|) / mu,   e = |R(x)| / mu

with R strongly monotone of modulus mu, Lipschitz constants L_A, L_B, L_C of A, B and grad_x C, and r = A^T z - grad_x C
what the adjoint solve has left. Pedregosa (2016), proceedings.mlr.press/v48/pedregosa16; Ehrhardt and Roberts (2023),
doi:10.1093/imamat/hxad035.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invhyper import tree
from invhyper.bilevel import given
from invhyper.hypergradient.adjoint import apply_transpose, pull, solve_adjoint, value_and_pull

# A second Newton correction above this part of the first, or a change of the gradient above this part of it, says that
# errors are not yet linear in the distance to x*.
LINEAR = 0.25
# Solves only have to beat the error that they measure by a digit or two.
LOOSE = 1e-2
# In units of rounding: what is added to computed residuals before a bound is believed.
ULPS = 32


class ErrorEstimate(NamedTuple):
    """`estimate` of |g(x) - g(x*)|; `contraction`: the second Newton correction of x as a part of the first, and no
    less than the part of the gradient that the first one changes; `bound`, guaranteed, or None.
    """

    estimate: Any
    contraction: Any
    bound: Any = None

    @property
    def linear(self) -> bool:
        """Whether the estimate can be believed."""
        return bool(self.contraction <= LINEAR)


def newton_estimate(problem, solution, theta, z, gradient, linearisation) -> ErrorEstimate:
    """The estimate of a traced lower level: two loose solves with A, one with A^T at the corrected point."""
    lower = problem.lower
    step, _ = solve_adjoint(
        linearisation, lower.defect(solution, theta), None, None, LOOSE, host=False, transpose=False
    )
    corrected = lower.shifted(solution, step)
    _, (along_x, along_theta) = pull(given(problem.criterion, corrected), corrected.x, theta)
    there = lower.linearise(corrected, theta)
    rhs = there.P_transpose(along_x)
    defect = tree.subtract(rhs, apply_transpose(there, z, host=False))
    dz, _ = solve_adjoint(there, defect, None, None, LOOSE, host=False)
    better = tree.subtract(along_theta, there.B_transpose(tree.axpy(1.0, z, dz)))
    change = tree.norm(tree.subtract(better, gradient))
    left = lower.defect(corrected, theta)
    again, _ = solve_adjoint(linearisation, left, None, None, LOOSE, host=False, transpose=False)
    first, second = tree.norm(linearisation.P(step)), tree.norm(linearisation.P(again))
    tiny = jnp.finfo(change.dtype).tiny
    # Below rounding of x the corrections are noise, and so is what they say of each other.
    noise = ULPS * jnp.finfo(change.dtype).eps * tree.norm(solution.x)
    shrunk = jnp.where(first > noise, second / jnp.maximum(first, tiny), 0.0)
    return ErrorEstimate(change, jnp.maximum(shrunk, change / jnp.maximum(tree.norm(better), tiny)))


def guaranteed_bound(problem, solution, theta, z, linearisation):
    """The bound, or None where the lower level or the criterion does not know its constants."""
    constants = problem.lower.constants(solution.x, theta)
    lipschitz = getattr(problem.criterion, "lipschitz", None)
    steepness = None if lipschitz is None else lipschitz(solution.x)
    if constants is None or steepness is None:
        return None
    _, (along_x, _) = pull(given(problem.criterion, solution), solution.x, theta)
    eps = ULPS * jnp.finfo(jnp.result_type(*jax.tree.leaves(solution.x))).eps
    left = tree.norm(tree.subtract(apply_transpose(linearisation, z, host=False), along_x))
    size, across = tree.norm(z), constants.cross
    e = (tree.norm(problem.lower.residual(solution.x, theta)) + eps * constants.rounding) / constants.modulus
    left = left + eps * (constants.curvature * size + tree.norm(along_x))
    of_z = (steepness * e + constants.lipschitz_A * e * size + left) / constants.modulus
    bound = constants.lipschitz_B * e * size + (across + constants.lipschitz_B * e) * of_z + eps * across * size
    return jnp.where(constants.modulus > 0, bound, jnp.inf)


def host_estimate(linearisation, solution, rhs, z, gradient, criterion, theta, estimate: bool) -> float | None:
    """First-order error of a polished solution from its own factor: one refinement of c and one of z, both |S|^2."""
    if linearisation.residual is None or linearisation.solve is None:
        return None
    size = tree.norm(gradient)
    dc = linearisation.solve(linearisation.residual, False)
    defect = tree.subtract(rhs, apply_transpose(linearisation, z, host=True))
    if estimate:
        x = tree.subtract(solution.x, linearisation.P(dc))
        _, (along_x, _) = value_and_pull(criterion, x, theta)
        defect = tree.axpy(1.0, defect, tree.subtract(linearisation.P_transpose(along_x), rhs))
    dz = linearisation.solve(defect, True)
    shift = tree.norm(linearisation.P(dc))
    relative = shift / max(tree.norm(solution.x), np.finfo(float).tiny) if shift else 0.0
    return float(tree.norm(linearisation.B_transpose(dz)) + relative * size + np.finfo(float).eps * size)
