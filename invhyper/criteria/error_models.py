"""How far a measurement lies from what a model predicts: the variance, as a function of the prediction."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from invhyper.theta import nearest


class ErrorModel(eqx.Module):
    """y = f + e, e normal with a variance that may depend on f; `keys`: of sigma (None: sigma is a number)."""

    keys: ClassVar[tuple[str, ...] | None] = None

    def variance(self, f: Float[Array, "..."], sigma: PyTree) -> Float[Array, "..."]:
        """The variance of a measurement whose prediction is f."""
        raise NotImplementedError(f"{type(self).__name__} defines no variance")

    def check(self, sigma: PyTree):
        """ValueError unless sigma is what this model wants, and positive where it is concrete."""
        name = type(self).__name__
        if self.keys is None:
            if isinstance(sigma, dict) or np.shape(sigma) != ():
                raise ValueError(f"theta 'sigma' = {sigma!r}: {name} wants one number, a standard deviation")
            named = {"sigma": sigma}
        else:
            wanted = ", ".join(map(repr, self.keys))
            if not isinstance(sigma, dict) or set(sigma) != set(self.keys):
                given = ", ".join(map(repr, sigma)) if isinstance(sigma, dict) else repr(sigma)
                unknown = [key for key in sigma if key not in self.keys] if isinstance(sigma, dict) else []
                near = nearest(unknown[0], self.keys) if unknown else None
                hint = f" (did you mean {near!r}?)" if near else ""
                raise ValueError(f"theta 'sigma' holds {given}{hint}: {name} wants a dict with {wanted}")
            named = {f"sigma.{key}": sigma[key] for key in self.keys}
        for path, value in named.items():
            if isinstance(value, jax.core.Tracer):
                continue
            if np.shape(value) != () or not value > 0:
                raise ValueError(
                    f"theta {path!r} = {value}: a standard deviation above 0 is wanted (without noise the likelihood "
                    "has no maximum)"
                )


class AdditiveError(ErrorModel):
    """y = f + sigma e: the variance is sigma^2, whatever is predicted.

    >>> import invhyper as ih
    >>> float(ih.AdditiveError().variance(3.0, 0.5))
    0.25
    """

    def variance(self, f, sigma):
        return jnp.broadcast_to(jnp.asarray(sigma, float) ** 2, jnp.shape(f))


class ProportionalError(ErrorModel):
    """y = f + sigma f e: the variance is sigma^2 f^2.

    A prediction of zero has no variance, and then no likelihood: leave such records out, or use `CombinedError`.

    >>> import invhyper as ih
    >>> float(ih.ProportionalError().variance(3.0, 0.5))
    2.25
    """

    def variance(self, f, sigma):
        return (sigma * f) ** 2


class CombinedError(ErrorModel):
    """y = f + add e_1 + prop f e_2: the variance is add^2 + prop^2 f^2, sigma = {"add", "prop"}.

    >>> import invhyper as ih
    >>> float(ih.CombinedError().variance(3.0, {"add": 1.0, "prop": 0.5}))
    3.25
    """

    keys: ClassVar = ("add", "prop")

    def variance(self, f, sigma):
        return sigma["add"] ** 2 + (sigma["prop"] * f) ** 2
