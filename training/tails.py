"""How rare a residual is in its column: a Lomax (Pareto II) tail per column, fitted to training rows.

Share of ordinary rows whose normalised residual is at or above r: (1 + r / scale) ** -shape. Squared
residuals of payments have such tails, from nearly exponential (shape at its limit) to those of columns that
are almost always the same. Minus its logarithm is the evidence, in nats; it is 1 on average where the law
fits, and grows only with the logarithm of a wild value.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.graph import Graph

# Shares at which the law is fitted: the body is no concern, and under 0.0005 the sample says little.
SHARES = np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005])
SHAPE_LIMIT = 20.0  # beyond, the law is an exponential for all that matters, and rounding is multiplied by it
SCALES = 80  # candidates per column, in equal ratios
SMALLEST = 1e-9


@dataclass(frozen=True)
class Tail:
    """One law per column, float32[F] each."""

    shape: Tensor
    scale: Tensor

    def __call__(self, residuals: Tensor) -> Tensor:
        """Normalised residuals [n, F] -> evidence [n, F], at or above 0."""
        evidence: Tensor = torch.log(1 + residuals / self.scale) * self.shape  # as the exported graph has it
        return evidence

    def into(self, graph: Graph, residuals: str) -> str:
        """__call__ as nodes."""
        scaled = graph.add("Mul", residuals, graph.constant(1 / self.scale.numpy()))
        logs = graph.add("Log", graph.add("Add", scaled, graph.constant(1.0)))
        return graph.add("Mul", logs, graph.constant(self.shape.numpy()))


def fit_tail(residuals: npt.NDArray[np.float32], least_scale: npt.NDArray[np.float32]) -> Tail:
    """Least squares of evidence against the quantiles' own, over a grid of scales; residuals [n, F].

    `least_scale` [F] is a size of residual under which rounding speaks, not the payment.
    """
    quantiles = np.maximum(np.quantile(residuals, 1 - SHARES, axis=0).astype(np.float64), SMALLEST)  # [shares, F]
    wanted = -np.log(SHARES)[:, None]
    # From far under the median, a power law throughout, to far above the last quantile, an exponential.
    lowest = np.maximum(quantiles[0] * 1e-2, least_scale)
    highest = np.maximum(quantiles[-1] * 1e2, lowest * 10)
    best = np.full(residuals.shape[1], np.inf)
    shape, scale = np.ones_like(best), np.ones_like(best)
    for step in np.linspace(0, 1, SCALES):
        candidate = lowest ** (1 - step) * highest**step
        logs = np.log1p(quantiles / candidate)
        fitted = np.minimum((logs * wanted).sum(axis=0) / (logs**2).sum(axis=0), SHAPE_LIMIT)
        error = ((fitted * logs - wanted) ** 2).sum(axis=0)
        better = error < best
        best = np.where(better, error, best)
        shape, scale = np.where(better, fitted, shape), np.where(better, candidate, scale)
    return Tail(torch.tensor(shape, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32))
