"""Training. On any numeric table, without the rest of Vigil:

>>> import numpy as np
>>> from training import fit_autoencoder
>>> x = np.random.default_rng(1).normal(size=(2_000, 5))
>>> x[:, 4] = x[:, 0] + 0.1 * x[:, 4]          # what the last column ought to be, the first one says
>>> detector = fit_autoencoder(x)
>>> odd = np.array([[0.0, 0.0, 0.0, 0.0, 4.0]])
>>> bool(detector.score(odd)[0] > np.quantile(detector.score(x), 0.99))
True
>>> int(detector.contributions(odd)[0].argmax()) in (0, 4)
True

`fit_autoencoder(x, recipe)` takes a whole configuration: `recipes.named("fast", ["updates=500"])`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.detector import Detector, fit_autoencoder

__all__ = ["Detector", "fit_autoencoder"]


def __getattr__(name: str) -> Any:
    """Only who asks for a detector waits for torch."""
    if name in __all__:
        from training import detector

        return getattr(detector, name)
    raise AttributeError(name)
