"""The error that discretisation leaves in a hypergradient: what a tenth of the simulation's tolerances changes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.problem import Evaluation, NotConverged

# Tolerances are tightened by a tenth at a time, this often at most.
MOST = 7


def finer(problem: Bilevel) -> Bilevel | None:
    """The same problem with simulations at a tenth of their tolerances; None where nothing is simulated."""
    lower = problem.lower.finer()
    if lower is None:
        return None
    criterion = problem.criterion
    return Bilevel(lower, criterion.finer() if hasattr(criterion, "finer") else criterion)


def with_error(evaluate: Callable, problem: Bilevel, warm: Evaluation | None, throw: bool) -> Evaluation:
    """evaluate(problem, warm) with the change of its gradient under finer simulations as `error_estimate`.

    Where the lower level asks for an `accuracy` relative to the gradient, the simulations are made finer until it is
    reached; NotConverged if they cannot be.
    """
    evaluation = evaluate(problem, warm)
    accuracy = problem.lower.accuracy
    for _ in range(MOST):
        problem = finer(problem)
        if problem is None:
            return evaluation
        again = evaluate(problem, evaluation)
        change = float(tree.norm(tree.subtract(again.gradient, evaluation.gradient)))
        size = float(tree.norm(again.gradient))
        # By chance two tolerances can agree better than either is right: no less than what the finer one promises.
        known = change + float(problem.lower.tolerance) * size + (evaluation.certificate.error_estimate or 0.0)
        certified = replace(
            evaluation.certificate,
            error_estimate=known,
            verdict=f"{evaluation.certificate.verdict}; finer simulation moves the gradient by {change:.1e}",
        )
        evaluation = replace(evaluation, certificate=certified)
        if accuracy is None or known <= accuracy * size:
            return evaluation
        best, evaluation = evaluation, again
    if throw:
        raise NotConverged(
            f"the gradient is known to {known / max(size, np.finfo(float).tiny):.1e} of itself with simulation "
            f"tolerances of 1e{1 - MOST} times those given, not to accuracy = {accuracy:g}: ask for less, or scale the "
            "model"
        )
    return best
