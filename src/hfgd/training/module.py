"""The Lightning module: thin; it holds a network and is not one."""

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from hfgd.data.dataset import Batch
from hfgd.errors import HfgdError
from hfgd.losses import loss_terms
from hfgd.model.segmenter import Segmenter
from hfgd.recipes.spec import Recipe
from hfgd.training.optim import make_optimiser, poly_schedule

STEP = 2  # keeps this stream of random numbers apart from the loader's


class NonFiniteLossError(HfgdError):
    """A loss that is infinite or no number, with the iteration and the images of the batch."""

    def __init__(self, iteration: int, names: list[str], terms: dict[str, Tensor]) -> None:
        values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
        super().__init__(
            f"the loss is not finite at iteration {iteration} ({values}); "
            f"the images of its batch: {', '.join(names)}"
        )


class LitSegmenter(L.LightningModule):
    """One training step of a network under a recipe."""

    def __init__(self, network: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout and drop path a pure function of (seed, iteration, process), so that a
        resumed run draws what an undisturbed one would have drawn."""
        entropy = [self.recipe.train.seed, STEP, self.global_step, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss, and every term of it under its name."""
        output = self.network(batch.image)
        terms = loss_terms(output, batch.label, self.recipe.loss)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(self.global_step + 1, batch.names, terms)
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser under the poly schedule, stepped every iteration."""
        optim = self.recipe.optim
        optimiser = make_optimiser(self.network, optim)
        schedule = poly_schedule(optimiser, self.recipe.train.iterations, optim.power)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
