"""Nonlinear mixed effects: a population whose subjects share fixed effects and differ by random ones."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from invhyper.bilevel import Bilevel
from invhyper.criteria.error_models import ErrorModel
from invhyper.criteria.likelihood import LOG_TWO_PI, Method
from invhyper.criteria.subjects import Records, Subjects, stack
from invhyper.lower.mixed_effects import RandomEffects
from invhyper.population.fit import fit
from invhyper.theta import call


class MixedEffects:
    """A population: what is predicted for a subject depends on fixed effects, random effects and covariates.

        y_ij = f(phi_i, t_ij) + e_ij,   phi_i = individual(fixed, eta_i, covariates_i),   eta_i ~ N(0, omega)

    theta = {"fixed", "omega", "sigma"}: `fixed`, a dict of numbers or arrays; `omega` (d, d), the covariance matrix of
    eta; `sigma`, the standard deviation of e (with `CombinedError` a dict of two, "add" and "prop").

    **Arguments**: `predict(phi, covariates, times)`: a JAX function that returns the prediction at each of `times`
    (T,), a closed form or what `ode_predict` makes of an ODE; it is differentiated in phi alone, forward.
    `individual(fixed, eta, covariates)`: a JAX function that returns phi, any tree of numbers: few, for derivatives in
    each of them are taken. `records`: a list of `Records`, one for each subject. `error`:
    `AdditiveError()`, `ProportionalError()` or `CombinedError()`.

    A method says how random effects are integrated out: `FO()`, `FOCE()`, `FOCEI()`, `Laplace()`, `AGQ(nodes)`.
    `problem(method)` is the `Bilevel` whose lower level finds the modes of the random effects and whose criterion is
    the likelihood around them: `Implicit()` gives its exact gradient, and `tune` searches it.

    Raises ValueError for a subject without data, covariates that differ in kind, values that are not finite.

    >>> import jax.numpy as jnp, numpy as np, invhyper as ih
    >>> records = [ih.Records([0.0, 1.0, 2.0], y) for y in ([4.1, 2.3, 1.2], [3.9, 2.7, 1.9], [4.0, 1.8, 0.9])]
    >>> cells = ih.MixedEffects(
    ...     predict=lambda phi, covariates, t: 4 * jnp.exp(-phi * t),
    ...     individual=lambda fixed, eta, covariates: fixed["rate"] + eta[0],
    ...     records=records, error=ih.AdditiveError(),
    ... )
    >>> theta = {"fixed": {"rate": 0.5}, "omega": np.array([[0.04]]), "sigma": 0.1}
    >>> round(cells.minus_two_log_likelihood(theta, ih.FOCEI()), 4)
    -24.2228

    Lindstrom and Bates (1990), doi:10.2307/2532087; Almquist et al. (2015), doi:10.1007/s10928-015-9409-1.
    """

    def __init__(self, predict: Callable, individual: Callable, records: Sequence[Records], error: ErrorModel):
        for name, function in (("predict", predict), ("individual", individual)):
            if not callable(function):
                raise TypeError(f"MixedEffects {name} is a {type(function).__name__}: a function is wanted")
        if not isinstance(error, ErrorModel):
            raise TypeError(
                f"MixedEffects error = {error!r}: AdditiveError(), ProportionalError() or CombinedError() is wanted"
            )
        for record in records:
            if not isinstance(record, Records):
                raise TypeError(f"MixedEffects records hold a {type(record).__name__}: Records are wanted")
        self.subjects: Subjects = stack(predict, individual, records, error)

    def __len__(self):
        return len(self.subjects)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the subjects."""
        return self.subjects.names

    def without(self, names: Sequence[str]) -> "MixedEffects":
        """The population without the subjects named."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"there is no subject {unknown[0]!r}: there are {', '.join(map(repr, self.names[:12]))}")
        chosen = [place for place, name in enumerate(self.names) if name not in names]
        if not chosen:
            raise ValueError("no subject is left")
        smaller = object.__new__(MixedEffects)
        smaller.subjects = self.subjects.keep(chosen)
        return smaller

    def problem(self, method: Method) -> Bilevel:
        """The modes of the random effects and -2 log L (without n log 2 pi) around them, as a `Bilevel`."""
        if not isinstance(method, Method):
            raise TypeError(f"{method!r}: FO(), FOCE(), FOCEI(), Laplace() or AGQ(nodes) is wanted")
        return Bilevel(RandomEffects(self.subjects, method), method)

    def check(self, theta: PyTree, method: Method) -> PyTree:
        """theta with array leaves; ValueError for what is wrong with it, or with the functions at it."""
        theta = self.problem(method).lower.check(theta)
        eta = np.zeros(np.shape(theta["omega"])[0])
        subjects = self.subjects
        covariates = jax.tree.map(lambda leaf: np.asarray(leaf)[0], subjects.covariates)

        def predicted(fixed, eta):
            phi = subjects.individual(fixed, eta, covariates)
            return subjects.predict(phi, covariates, jnp.asarray(subjects.times[0]))

        def shape_with(eta):
            shape = lambda fixed: jax.eval_shape(lambda fixed: predicted(fixed, eta), fixed)  # noqa: E731
            return call(shape, theta["fixed"], "MixedEffects individual")

        try:
            # NumPy refuses an entry that is not there; JAX takes another one for it.
            shape = shape_with(eta)
        except (AttributeError, TypeError):  # of functions that want JAX's own arrays
            shape = shape_with(jnp.asarray(eta))
        except IndexError as error:
            raise ValueError(
                f"individual looks up a random effect that omega has not ({eta.size} of them): {error}"
            ) from error
        wanted = subjects.times.shape[1:]
        if shape.shape != wanted:
            raise ValueError(f"predict returned shape {shape.shape} for {wanted[0]} times: {wanted} is wanted")
        return theta

    def minus_two_log_likelihood(self, theta: PyTree, method: Method, *, full: bool = False) -> float:
        """-2 log L at theta, by a method; `full` adds n log 2 pi, with n measurements in all.

        Raises ValueError for a bad theta, `NotConverged`, which names the subjects, where modes are not found.
        """
        theta = self.check(theta, method)
        value = self.problem(method).value(theta)
        return value + (LOG_TWO_PI * self.subjects.measurements if full else 0.0)

    fit = fit

    def __repr__(self):
        return f"MixedEffects({len(self)} subjects, {self.subjects.measurements} measurements)"
