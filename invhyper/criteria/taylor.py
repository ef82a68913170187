"""Taylor polynomials: a function that is dear to evaluate, replaced by its derivatives where they are known."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float


class Expansion(NamedTuple):
    """f around `at`: `terms` are f (T,), f' (T, m), f'' (T, m, m), ... there, as constants."""

    at: Float[Array, " m"]
    terms: tuple[Array, ...]

    def __call__(self, x: Float[Array, " m"]) -> Float[Array, " T"]:
        """sum_k f^(k)(at) (x - at)^k / k!

        Its derivatives at x = `at` are those of f up to the number of terms, whatever x depends on.
        """
        step = x - self.at
        total = self.terms[0]
        for k, term in enumerate(self.terms[1:], 1):
            for _ in range(k):
                term = term @ step
            total = total + term / math.factorial(k)
        return total


def expand(f: Callable, at: Float[Array, " m"], order: int) -> Expansion:
    """f and its derivatives up to `order` at a point, in forward mode and in one evaluation."""
    at = jax.lax.stop_gradient(at)

    def nested(order):
        if order == 0:
            return lambda x: (f(x),)
        below = nested(order - 1)

        def last(x):
            terms = below(x)
            return terms[-1], terms

        def terms(x):
            derivative, lower = jax.jacfwd(last, has_aux=True)(x)
            return (*lower, derivative)

        return terms

    return Expansion(at, jax.lax.stop_gradient(nested(order)(at)))
