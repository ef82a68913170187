"""The linear mixed model: its likelihood, gradient and modes in closed form, which every method must agree with."""

from typing import NamedTuple

import numpy as np


class LinearMixed(NamedTuple):
    """Subjects with y_i ~ N(X_i b, Z_i omega Z_i^T + sigma^2), and what is known of them in closed form."""

    X: list[np.ndarray]
    Z: list[np.ndarray]
    y: list[np.ndarray]
    b: np.ndarray
    omega: np.ndarray
    sigma: float

    def minus_two_log_likelihood(self, b, omega, sigma):
        """Without n log 2 pi."""
        total = 0.0
        for X, Z, y in zip(self.X, self.Z, self.y, strict=True):
            C, r = Z @ omega @ Z.T + sigma**2 * np.eye(len(y)), y - X @ b
            total += np.linalg.slogdet(C)[1] + r @ np.linalg.solve(C, r)
        return total

    def gradient(self, b, omega, sigma):
        """Of the same, in b, omega (the symmetric matrix of partial derivatives) and sigma."""
        of_b, of_omega, of_sigma = np.zeros(len(b)), np.zeros_like(omega), 0.0
        for X, Z, y in zip(self.X, self.Z, self.y, strict=True):
            inverse, r = np.linalg.inv(Z @ omega @ Z.T + sigma**2 * np.eye(len(y))), y - X @ b
            of_C = inverse - np.outer(inverse @ r, inverse @ r)
            of_b -= 2 * X.T @ inverse @ r
            of_omega += Z.T @ of_C @ Z
            of_sigma += 2 * sigma * np.trace(of_C)
        return of_b, of_omega, of_sigma

    def modes(self, b, omega, sigma):
        """The best linear predictions of the random effects, (subjects, d)."""
        return np.array(
            [
                omega @ Z.T @ np.linalg.solve(Z @ omega @ Z.T + sigma**2 * np.eye(len(y)), y - X @ b)
                for X, Z, y in zip(self.X, self.Z, self.y, strict=True)
            ]
        )


def linear_mixed_model(subjects=6, n=5, seed=0) -> LinearMixed:
    """Random intercepts and slopes; two fixed effects."""
    rng = np.random.default_rng(seed)
    b, omega, sigma = np.array([1.0, -0.5]), np.array([[0.5, 0.1], [0.1, 0.2]]), 0.3
    X = [np.column_stack([np.ones(n), rng.standard_normal(n)]) for _ in range(subjects)]
    eta = rng.multivariate_normal(np.zeros(2), omega, subjects)
    y = [x @ (b + e) + sigma * rng.standard_normal(n) for x, e in zip(X, eta, strict=True)]
    return LinearMixed(X, X, y, b, omega, sigma)
