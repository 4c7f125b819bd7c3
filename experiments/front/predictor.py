"""How good will a candidate be? A Gaussian process over a space's knobs, fitted to a study's own evaluations.

Latency needs no model, for the table gives it; only the mIoU is predicted. The kernel is a Matern 5/2 with a length
for every feature. The lengths' prior grows with the number of features, which is what makes a Gaussian process work
in tens of dimensions (Hvarfner et al., "Vanilla Bayesian Optimization Performs Great in High Dimensions", 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]

LEAST_POINTS = 3
MOST_FITTED = 300
"""The lengths are fitted to so many points, evenly over all; the prediction uses all."""
_LENGTH_SPREAD = math.sqrt(3)
_NOISE_PRIOR = (-4.0, 1.0)
"""Mean and spread of the logarithm of the noise's variance, in units of the values' variance."""
_LEAST_NOISE = 1e-5
_STEPS = 60


@dataclass(frozen=True)
class Predictor:
    """A fitted predictor; make one with `Predictor.fit`."""

    features: Floats
    """(n, d), each within 0 to 1."""
    values: Floats
    """(n,)"""
    lengths: Floats
    """(d,)"""
    signal: float
    """Variance, in units of the values' own."""
    noise: float

    @classmethod
    def fit(cls, features: Floats, values: Floats) -> Predictor:
        """The most probable lengths, signal and noise of at least 3 points (n, d) and their values (n,)."""
        if len(values) < LEAST_POINTS or features.shape[0] != len(values):
            raise ValueError(f"a predictor needs at least {LEAST_POINTS} points and a value for each.")
        chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_FITTED)).astype(int))
        x = torch.from_numpy(np.ascontiguousarray(features[chosen]))
        y = torch.from_numpy(_standardised(values)[0][chosen])
        count = features.shape[1]
        usual = math.log(math.sqrt(count)) + math.sqrt(2)
        start = np.concatenate([np.full(count, usual), [0.0, _NOISE_PRIOR[0]]])

        def loss(logs: Floats) -> tuple[float, Floats]:
            parameters = torch.tensor(logs, requires_grad=True)
            lengths, signal, noise = parameters[:-2].exp(), parameters[-2].exp(), parameters[-1].exp()
            covariance = signal * _matern(x / lengths, x / lengths)
            covariance = covariance + (noise + _LEAST_NOISE) * torch.eye(len(y), dtype=torch.float64)
            factor = torch.linalg.cholesky(covariance)
            solved = torch.cholesky_solve(y[:, None], factor)[:, 0]
            evidence = 0.5 * (y @ solved) + factor.diagonal().log().sum()
            prior = ((parameters[:-2] - usual) ** 2).sum() / (2 * _LENGTH_SPREAD**2)
            prior = prior + parameters[-2] ** 2 / 2
            prior = prior + (parameters[-1] - _NOISE_PRIOR[0]) ** 2 / (2 * _NOISE_PRIOR[1] ** 2)
            total = evidence + prior
            total.backward()
            assert parameters.grad is not None
            return total.item(), parameters.grad.numpy()

        bounds = [(usual - 5.0, usual + 5.0)] * count + [(-4.0, 4.0), (-9.0, 1.0)]
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS}).x
        return cls(features, values, np.exp(found[:-2]), float(np.exp(found[-2])), float(np.exp(found[-1])))

    def posterior(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean (m,) and covariance (m, m) of the values, noise left out, at features (m, d)."""
        _, mean, spread = self._standard
        expected, solved = self._expected(features)
        covariance = self.signal * self._kernel(features, features) - (solved.T @ solved).numpy()
        return expected * spread + mean, covariance * spread**2

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation (m,) of the values, noise left out, at features (m, d)."""
        _, mean, spread = self._standard
        expected, solved = self._expected(features)
        variance = np.clip(self.signal - (solved**2).sum(0).numpy(), 0, None)
        return expected * spread + mean, np.sqrt(variance) * spread

    def draws(self, features: Floats, count: int, rng: np.random.Generator) -> Floats:
        """(count, m) functions that the evaluations leave possible, at features (m, d)."""
        mean, covariance = self.posterior(features)
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        root = vectors * np.sqrt(np.clip(values, 0, None))
        drawn: Floats = mean + rng.standard_normal((count, len(mean))) @ root.T
        return drawn

    @cached_property
    def left_out(self) -> Floats:
        """(n,) what the others predict for each evaluation, the lengths as fitted to all."""
        scaled, mean, spread = self._standard
        inverse = torch.cholesky_inverse(self._factor)
        errors = (inverse @ torch.from_numpy(scaled) / inverse.diagonal()).numpy()
        predicted: Floats = (scaled - errors) * spread + mean
        return predicted

    def _expected(self, features: Floats) -> tuple[Floats, torch.Tensor]:
        """(m,) standardised means, and what is solved for them (n, m), which the variances take too."""
        across = torch.from_numpy(self.signal * self._kernel(features, self.features))
        solved = torch.linalg.solve_triangular(self._factor, across.T, upper=False)
        white = torch.linalg.solve_triangular(self._factor, torch.from_numpy(self._standard[0])[:, None], upper=False)
        return (solved.T @ white)[:, 0].numpy(), solved

    @cached_property
    def _standard(self) -> tuple[Floats, float, float]:
        return _standardised(self.values)

    @cached_property
    def _factor(self) -> torch.Tensor:
        covariance = self.signal * self._kernel(self.features, self.features)
        covariance[np.diag_indices_from(covariance)] += self.noise + _LEAST_NOISE
        factor: torch.Tensor = torch.linalg.cholesky(torch.from_numpy(covariance))
        return factor

    def _kernel(self, a: Floats, b: Floats) -> Floats:
        kernel: Floats = _matern(torch.from_numpy(a / self.lengths), torch.from_numpy(b / self.lengths)).numpy()
        return kernel


def _matern(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Matern 5/2 of (n, d) and (m, d), scaled by their lengths."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    root = (5 * squared.clamp_min(1e-12)).sqrt()
    kernel: torch.Tensor = (1 + root + root**2 / 3) * torch.exp(-root)
    return kernel


def _standardised(values: Floats) -> tuple[Floats, float, float]:
    mean, spread = float(np.mean(values)), float(np.std(values))
    spread = spread or 1.0
    return (values - mean) / spread, mean, spread
