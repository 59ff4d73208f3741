"""The detector: how unlike ordinary rows is this one, and which columns say so.

Two verbs, `score` and `contributions`. A row is standardised robustly and reconstructed by every network of
the ensemble; each column's squared residual is divided by that column's mean squared residual on the
training rows (both signs count, MODELS.md §1.3). That normalised residual is turned into evidence: minus the
logarithm of how rare such a residual is in its column, from a heavy-tailed law fitted per column, and the
columns' evidence is added as Fisher adds p-values, each with its column's weight (training/weights.py). Without
that step one wild column outweighs five that are odd together, which is what fraud looks like.
The network reads no value further out than the recipe's `reach`, in training and in use: it can neither learn to
copy what is far out nor be led astray by it, so a wild value is its own column's residual and nobody else's.
Assumes that anomalies are rare among the training rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from feature_repo.errors import BadConfiguration
from training import recipes
from training.graph import Graph
from training.network import Autoencoder, Trained, fixed_threads, train
from training.recipes import Recipe
from training.table import numbers
from training.tails import Tail, fit_tail
from training.weights import learn

FloatArray = npt.NDArray[np.float32]

MIN_ROWS = 256
IQR_OF_A_NORMAL = 1.349  # interquartile range of a normal distribution, in standard deviations
FAR = 1e30  # where a standardised value is cut before its logarithm: keeps float32 finite
SLICE_ROWS = 2_048  # stays in the second-level cache
TAIL_ROWS = 100_000  # that the laws of the tails are fitted to: enough for the last of tails.SHARES
WEIGHED_ROWS = 50_000  # ordinary rows that weights are learned from; more would only move the intercept
CERTAIN = 3.0  # nats of evidence, one ordinary value in twenty, beyond which size alone divides the blame
TINY = 1e-12
# Squared residual, in squares of a standardised deviation, under which evidence is cut off: two processors
# round a network's answer to within 1e-6, so evidence of a residual of 0.03 is the same on both within 1e-4.
RESOLUTION = 1e-3


@dataclass(frozen=True)
class Normalisation:
    """Robust standardisation, linear within `soft_clip` deviations and logarithmic beyond: monotone, finite."""

    center: Tensor  # float32[F]
    scale: Tensor  # float32[F], above 0
    soft_clip: float

    @classmethod
    def fit(cls, x: FloatArray, kept: tuple[int, ...], soft_clip: float) -> "Normalisation":
        """Median and interquartile range; mean and deviation where half the values are one and the same."""
        quartiles, moments = np.empty((3, len(kept))), np.empty((2, len(kept)))
        for place, column in enumerate(kept):  # one at a time: of a large table a copy more is gigabytes
            values = x[:, column].astype(np.float64)
            moments[:, place] = values.mean(), values.std()
            quartiles[:, place] = np.quantile(x[:, column], (0.25, 0.5, 0.75))
        low, median, high = quartiles
        spread = (high - low) / IQR_OF_A_NORMAL
        mean, deviation = moments
        # A spread far under the deviation says the column is nearly constant with a few other values.
        robust = spread > 0.1 * deviation
        center, scale = np.where(robust, median, mean), np.where(robust, spread, deviation)
        return cls(torch.tensor(center, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32), soft_clip)

    def undone(self, standardised: Tensor) -> Tensor:
        """The raw values whose standardised ones these are."""
        beyond = torch.expm1(torch.relu(standardised.abs() - self.soft_clip))
        z = standardised.clamp(-self.soft_clip, self.soft_clip) + torch.sign(standardised) * beyond
        return z * self.scale + self.center

    def __call__(self, rows: Tensor) -> Tensor:
        z = ((rows - self.center) / self.scale).clamp(-FAR, FAR)
        beyond = torch.log1p(torch.relu(z.abs() - self.soft_clip))
        return z.clamp(-self.soft_clip, self.soft_clip) + torch.sign(z) * beyond

    def into(self, graph: Graph) -> str:
        """__call__ as nodes."""
        clip = self.soft_clip
        centred = graph.add("Sub", "features", graph.constant(self.center.numpy()))
        scaled = graph.add("Div", centred, graph.constant(self.scale.numpy()))
        z = graph.add("Clip", scaled, graph.constant(-FAR), graph.constant(FAR))
        excess = graph.add("Relu", graph.add("Sub", graph.add("Abs", z), graph.constant(clip)))
        beyond = graph.add("Log", graph.add("Add", excess, graph.constant(1.0)))
        signed = graph.add("Mul", graph.add("Sign", z), beyond)
        inside = graph.add("Clip", z, graph.constant(-clip), graph.constant(clip))
        return graph.add("Add", inside, signed)


@dataclass(frozen=True)
class Member:
    """One network of the ensemble and, per column, what its residuals are on the training rows."""

    network: Autoencoder
    reach: float  # standardised deviations at which the network's input is cut
    variance: Tensor  # float32[F], mean squared residual, at or above the floor
    tail: Tail  # of the normalised residual

    def expected(self, rows: Tensor) -> Tensor:
        """Standardised rows as the network would have them."""
        expected: Tensor = self.network(rows.clamp(-self.reach, self.reach))
        return expected

    def residuals(self, rows: Tensor) -> Tensor:
        """Normalised squared residuals of standardised rows, [n, F]."""
        return (rows - self.expected(rows)).square() / self.variance

    def into(self, graph: Graph, rows: str) -> str:
        """`residuals` as nodes."""
        value = graph.add("Clip", rows, graph.constant(-self.reach), graph.constant(self.reach))
        for layer in self.network.layers:
            if isinstance(layer, nn.Linear):
                weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
                value = graph.add("Gemm", value, graph.constant(weight), graph.constant(bias), transB=1)
            else:
                value = graph.add("Relu", value)
        residual = graph.add("Sub", rows, value)
        return graph.add("Mul", graph.add("Mul", residual, residual), graph.constant(1 / self.variance.numpy()))


@dataclass(frozen=True)
class Detector:
    """A fitted ensemble. `kept` are the columns of the input it looks at; the others were constant."""

    width: int
    kept: tuple[int, ...]
    normalisation: Normalisation
    members: tuple[Member, ...]
    weights: Tensor  # float32[kept], how much a column's evidence counts, around 1
    losses: tuple[tuple[float, ...], ...]  # per member and optimiser step

    @property
    def dropped(self) -> tuple[int, ...]:
        return tuple(column for column in range(self.width) if column not in self.kept)

    def score(self, x: npt.ArrayLike) -> FloatArray:
        """[n, width] -> [n], at or above 0, higher is more anomalous; ordinary rows lie around 1."""
        return self._over_slices(numbers(x), lambda _, evidence: (weighed(evidence) * self.weights).mean(dim=1))

    def contributions(self, x: npt.ArrayLike) -> FloatArray:
        """[n, width] -> [n, width]: each column's share of the evidence; rows sum to 1, dropped columns are 0."""
        x = numbers(x)
        shares = np.zeros((len(x), self.width), np.float32)
        shares[:, self.kept] = self._over_slices(x, shared)
        return shares

    def settled(self, x: FloatArray) -> npt.NDArray[np.bool_]:
        """Every row: nothing in a network jumps."""
        return np.ones(len(x), bool)

    def into(self, graph: Graph) -> tuple[str, str]:
        """Raw score and contributions over the kept columns, as nodes."""
        rows = self.normalisation.into(graph)
        residuals = [member.into(graph, rows) for member in self.members]
        evidence = [member.tail.into(graph, part) for member, part in zip(self.members, residuals, strict=True)]
        together = _mean_into(graph, evidence)
        shares = graph.shares(_loud_into(graph, _mean_into(graph, residuals), together))
        strength = graph.add("Mul", together, graph.add("Sqrt", together))
        weighed_in = graph.add("Mul", strength, graph.constant(self.weights.numpy()))
        return graph.add("Mul", graph.total(weighed_in), graph.constant(1 / len(self.kept))), shares

    def expected(self, x: FloatArray) -> FloatArray:
        """[n, width] -> [n, width]: the row as the ensemble would have it; dropped columns as they are."""
        result = x.copy()
        with fixed_threads(), torch.no_grad():
            rows = self.normalisation(torch.from_numpy(np.ascontiguousarray(x[:, self.kept])))
            mean = torch.stack([member.expected(rows) for member in self.members]).mean(dim=0)
            result[:, self.kept] = self.normalisation.undone(mean).numpy()
        return result

    def _over_slices(self, x: FloatArray, answer: Callable[[Tensor, Tensor], Tensor]) -> FloatArray:
        """`answer` of the ensemble's mean residuals and evidence, slice by slice."""
        if x.shape[1] != self.width:
            raise BadConfiguration(f"{x.shape[1]} columns to score, the detector was fitted to {self.width}")
        parts = []
        with fixed_threads(), torch.no_grad():
            for start in range(0, len(x), SLICE_ROWS):
                chosen = np.ascontiguousarray(x[start : start + SLICE_ROWS, self.kept])
                parts.append(answer(*_evidence(self.members, self.normalisation(torch.from_numpy(chosen)))).numpy())
        return np.concatenate(parts)


def _evidence(members: tuple[Member, ...], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised squared residuals and evidence of standardised rows, both [n, F], means over the ensemble."""
    residuals = [member.residuals(rows) for member in members]
    evidence = [member.tail(part) for member, part in zip(members, residuals, strict=True)]
    return torch.stack(residuals).mean(dim=0), torch.stack(evidence).mean(dim=0)


def weighed(evidence: Tensor) -> Tensor:
    """Between adding evidence (all columns a little odd) and taking the largest (one column very odd)."""
    return evidence * evidence.sqrt()


def shared(residuals: Tensor, evidence: Tensor) -> Tensor:
    """Shares of what is far off and rare: a large residual tells where that column is seldom so far off.

    Evidence grows with the logarithm of a residual, so shares of it alone favour the many columns that are a
    little rare over the one that is far off. The columns' weights are left out: they say what comes with fraud,
    not what is odd about this row, and put the same few reasons in front of every alarm.
    """
    loud = (residuals + TINY).sqrt() * (evidence.clamp(max=CERTAIN) + TINY)
    return loud / loud.sum(dim=1, keepdim=True)


def _mean_into(graph: Graph, parts: list[str]) -> str:
    total = parts[0] if len(parts) == 1 else graph.add("Sum", *parts)
    return graph.add("Mul", total, graph.constant(1 / len(parts)))


def _loud_into(graph: Graph, residuals: str, evidence: str) -> str:
    """What `shared` divides by its sum."""
    root = graph.add("Sqrt", graph.add("Add", residuals, graph.constant(TINY)))
    rare = graph.add("Min", evidence, graph.constant(CERTAIN))
    return graph.add("Mul", root, graph.add("Add", rare, graph.constant(TINY)))


def fit_autoencoder(x: npt.ArrayLike, recipe: Recipe | None = None, known: npt.ArrayLike | None = None) -> Detector:
    """Fit to numeric rows [n, width] believed ordinary, by the default recipe unless one is given.

    `known` [m, width] are rows known to be anomalies, where there are any: the networks never see them, the
    columns' weights are learned from them. Same rows, recipe and seed: same detector.

    Raises BadConfiguration where there are too few rows, no column that varies, or a value that is not finite.
    """
    recipe = recipe or recipes.default()
    x = numbers(x)
    known = x[:0] if known is None else numbers(known)
    if len(x) < MIN_ROWS:
        raise BadConfiguration(f"{len(x)} rows to train on, at least {MIN_ROWS} are needed")
    if known.shape[1] != x.shape[1]:
        raise BadConfiguration(f"known anomalies of shape {known.shape}, rows to train on have {x.shape[1]} columns")
    kept = varying(x)
    normalisation = Normalisation.fit(x, kept, recipe.soft_clip)
    rows = torch.empty(len(x), len(kept))
    for start in range(0, len(x), SLICE_ROWS):
        chosen = np.ascontiguousarray(x[start : start + SLICE_ROWS, kept])
        rows[start : start + SLICE_ROWS] = normalisation(torch.from_numpy(chosen))
    trained = [train(rows, recipe, network) for network in range(recipe.seeds)]
    members = tuple(_member(fit, rows, recipe) for fit in trained)
    odd = normalisation(torch.from_numpy(np.ascontiguousarray(known[:, kept])))
    weights = _weights(members, rows, odd, recipe.belief)
    return Detector(x.shape[1], kept, normalisation, members, weights, tuple(fit.losses for fit in trained))


def varying(x: FloatArray) -> tuple[int, ...]:
    """Columns that are not constant. Raises BadConfiguration where none varies."""
    kept = tuple(int(column) for column in np.flatnonzero(x.min(axis=0) < x.max(axis=0)))
    if not kept:
        raise BadConfiguration("every column is constant: there is nothing to learn")
    return kept


def _member(fit: Trained, rows: Tensor, recipe: Recipe) -> Member:
    """With the variance of all rows; a sample of them is enough for the tails."""
    step = max(1, len(rows) // TAIL_ROWS)
    sampled = []
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    with fixed_threads(), torch.no_grad():
        for start in range(0, len(rows), SLICE_ROWS):
            part = rows[start : start + SLICE_ROWS]
            squares = (part - fit.network(part.clamp(-recipe.reach, recipe.reach))).square()
            total += squares.sum(dim=0, dtype=torch.float64)
            sampled.append(squares[-start % step :: step].clone())
    variance = (total / len(rows)).to(torch.float32).clamp(min=recipe.variance_floor)
    tail = fit_tail((torch.cat(sampled) / variance).numpy(), (RESOLUTION / variance).numpy())
    return Member(fit.network, recipe.reach, variance, tail)


def _weights(members: tuple[Member, ...], rows: Tensor, known: Tensor, belief: float) -> Tensor:
    """Of each column's evidence, from a sample of the training rows and from the known anomalies."""
    sample = rows[:: max(1, len(rows) // WEIGHED_ROWS)]
    with fixed_threads(), torch.no_grad():
        ordinary, odd = (weighed(_evidence(members, part)[1]).numpy() for part in (sample, known))
    return torch.from_numpy(learn(ordinary, odd, belief))
