"""The network: a denoising autoencoder, trained by Lightning on rows that stay in memory.

The loop reads whole batches out of one tensor: no worker processes, no per-row collation, nothing logged
per step, no files. That is what makes it 20 times faster than a default DataLoader (MODELS.md §6).
"""

import gc
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from training.recipes import Recipe

MIN_BATCHES = 32  # per pass over the rows, so that a small table still gives a stochastic gradient
PART_ROWS = 2_048  # of a batch on a CPU: its activations then fit the second-level cache (seen: 1.4 times faster)
WARM_UP_SHARE = 0.1  # of the steps, until the learning rate is at its top
# One thread: sums then run in one order, so the same seed gives the same weights on any number of cores, and
# a busy machine does not make two threads wait for each other at every layer (seen: 5 times slower).
THREADS = 1


class Autoencoder(nn.Module):
    """float32[n, width] -> float32[n, width] through a code narrower than the hidden layer around it."""

    def __init__(self, width: int, hidden: int, code: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, code),
            nn.Linear(code, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        reconstruction: Tensor = self.layers(x)
        return reconstruction


class Batches:
    """`updates` batches: the rows in one random order, each pass cut into batches from another place on.

    Contiguous slices of a table shuffled once are read four times faster than rows drawn one by one.
    """

    def __init__(
        self, rows: Tensor, batch_rows: int, updates: int, generator: torch.Generator, reach: float = math.inf
    ) -> None:
        """`rows` are left as they are; the batches' values lie within `reach`."""
        self.count = len(rows)
        self.batch_rows = max(1, min(batch_rows, self.count // MIN_BATCHES))
        self.updates = updates
        self.generator = generator
        # A batch may run over the end. One copy of the rows, and no second one on the way to it.
        self.ring = rows.new_empty(self.count + self.batch_rows, rows.shape[1])
        torch.index_select(rows, 0, self._random_order(), out=self.ring[: self.count])
        self.ring[self.count :] = self.ring[: self.batch_rows]
        self.ring.clamp_(-reach, reach)

    def __len__(self) -> int:
        return self.updates

    def __iter__(self) -> Iterator[Tensor]:
        batches = self.count // self.batch_rows
        for update in range(self.updates):
            if update % batches == 0:
                offset = int(torch.randint(self.count, (1,), generator=self.generator, device=self.ring.device))
            start = (offset + update % batches * self.batch_rows) % self.count
            yield self.ring[start : start + self.batch_rows]

    def _random_order(self) -> Tensor:
        return torch.randperm(self.count, generator=self.generator, device=self.generator.device)


class Denoising(lightning.LightningModule):
    """Reconstruct the clean row from a noisy one (Vincent et al. 2008, "denoising autoencoders").

    The noise is what makes the reasons right: a plain autoencoder learns to copy an odd value through
    its code and then blames its neighbours.
    """

    def __init__(self, rows: Tensor, recipe: Recipe, noise: float, seed: int) -> None:
        super().__init__()
        self.rows = rows  # a plain attribute: no buffer, so it is not moved or saved with the weights
        self.recipe = recipe
        self.noise = noise
        self.seed = seed
        self.network = Autoencoder(rows.shape[1], recipe.hidden, recipe.code)
        self.losses: list[Tensor] = []
        self.automatic_optimization = False

    def train_dataloader(self) -> Batches:
        """Called once the device is known: the rows move there as a whole and stay."""
        self.generator = torch.Generator(device=self.device).manual_seed(self.seed)
        return Batches(
            self.rows.to(self.device), self.recipe.batch_rows, self.recipe.updates, self.generator, self.recipe.reach
        )

    def training_step(self, batch: Tensor, _: int) -> None:
        """One optimiser step. On a CPU the batch goes through in parts that stay in its cache, gradients added."""
        optimizer: Any = self.optimizers()  # one of each, though the types allow for several
        schedule: Any = self.lr_schedulers()
        noise = torch.randn(batch.shape, generator=self.generator, device=batch.device)
        noisy = noise.mul_(self.noise).add_(batch)
        part_rows = PART_ROWS if batch.device.type == "cpu" else len(batch)
        total = torch.zeros((), device=batch.device)
        optimizer.zero_grad()
        for start in range(0, len(batch), part_rows):
            part = slice(start, start + part_rows)
            loss = nn.functional.mse_loss(self.network(noisy[part]), batch[part], reduction="sum") / batch.numel()
            self.manual_backward(loss)
            total += loss.detach()
        optimizer.step()
        schedule.step()
        self.losses.append(total)

    def configure_optimizers(self) -> Any:
        fused = torch.optim.Adam(self.parameters(), lr=self.recipe.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            fused, self.recipe.learning_rate, total_steps=self.recipe.updates + 1, pct_start=WARM_UP_SHARE
        )
        return [fused], [schedule]


@dataclass(frozen=True)
class Trained:
    """A network on the CPU in inference mode, and its training loss per step."""

    network: Autoencoder
    losses: tuple[float, ...]


@contextmanager
def fixed_threads() -> Iterator[None]:
    """torch with THREADS threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(rows: Tensor, recipe: Recipe, network: int) -> Trained:
    """Fit the ensemble's network number `network` to standardised `rows` float32[n, width], cut at the recipe's reach.

    The same rows, recipe and number give the same weights.
    """
    seed = recipe.seed + network
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its advice is about loaders we do not use
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with fixed_threads(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        torch.manual_seed(seed)
        task = Denoising(rows, recipe, recipe.noise_of(network), seed)
        trainer = lightning.Trainer(
            max_steps=recipe.updates,
            max_epochs=1,
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(task)
    losses = torch.stack(task.losses).cpu().tolist() if task.losses else []
    trained = Trained(task.network.cpu().eval(), tuple(losses))
    del task, trainer
    gc.collect()  # they hold each other, and with them a copy of the rows
    return trained
