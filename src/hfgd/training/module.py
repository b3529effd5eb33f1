"""The Lightning module: thin; it holds a network and is not one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from hfgd.data.dataset import Batch
from hfgd.errors import HfgdError
from hfgd.losses import loss_terms
from hfgd.model.segmenter import Segmenter
from hfgd.processes import any_process
from hfgd.recipes.spec import Recipe
from hfgd.training.optim import layer_scales, make_optimiser, poly_schedule

STEP = 2  # keeps this stream of random numbers apart from the loader's


class NonFiniteLossError(HfgdError):
    """A loss that is infinite or no number, with the iteration and the images of the batch."""

    def __init__(self, iteration: int, names: list[str], terms: dict[str, Tensor]) -> None:
        values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
        super().__init__(
            f"the loss is not finite at iteration {iteration} ({values}); "
            f"the images of its batch: {', '.join(names)}; a smaller optim.lr is the usual remedy."
        )


class LitSegmenter(L.LightningModule):
    """One training step of a network under a recipe."""

    def __init__(self, network: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        self.network = prepared(network, recipe)
        self.recipe = recipe
        # the compiled function is no module: names in the state stay what they are
        self.run = torch.compile(network.forward) if recipe.train.compile else network
        self._scales: dict[str, float] = {}
        if recipe.optim.layer_decay is not None:
            self._scales = layer_scales(network, recipe.model.backbone, recipe.optim.layer_decay)
        self.mark: Callable[[str], None] = lambda phase: None  # a profile listens here
        self._resting = resting_modules(network, recipe)
        self._norms = [
            (module, module.momentum)
            for module in network.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]

    def on_train_start(self) -> None:
        """Put what does not learn into evaluation mode, so that its statistics stay."""
        for module in self._resting:
            module.eval()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout and drop path a pure function of (seed, iteration, part, process), so that a
        resumed run draws what an undisturbed one would have drawn."""
        settings = self.recipe.train
        part = batch_idx % settings.accumulate
        entropy = [settings.seed, STEP, self.global_step, self.global_rank, part]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The ``loss``, and its ``terms`` by name (Lightning divides the one among the parts)."""
        output = self.run(batch.image)
        self.mark("forward")
        terms = loss_terms(output, batch.label, self.recipe.loss)
        loss = torch.stack(list(terms.values())).sum()
        finite = bool(torch.isfinite(loss))
        if any_process(not finite, loss.device):
            if finite:
                raise HfgdError("the loss is not finite in another process.")
            raise NonFiniteLossError(self.global_step + 1, batch.names, terms)
        return {"loss": loss, "terms": {name: term.detach() for name, term in terms.items()}}

    def on_before_backward(self, loss: Tensor) -> None:
        """Activations that are computed again must not count in the statistics again."""
        if self.recipe.train.checkpoint_activations:
            for module, _ in self._norms:
                module.momentum = 0.0

    def on_after_backward(self) -> None:
        """Let the statistics move again."""
        if self.recipe.train.checkpoint_activations:
            for module, momentum in self._norms:
                module.momentum = momentum

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser under the poly schedule, stepped every iteration."""
        optim = self.recipe.optim
        optimiser = make_optimiser(self.network, optim, self._scales)
        iterations = self.recipe.train.iterations
        schedule = poly_schedule(optimiser, iterations, optim.power, optim.warmup)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def prepared(network: Segmenter, recipe: Recipe) -> Segmenter:
    """The network as the recipe wants it trained; raises HfgdError for what it cannot do."""
    settings = recipe.train
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if settings.precision == "bf16-mixed" and not torch.accelerator.is_available():
        without_slow_strides(network)
    if "backbone" in settings.freeze:
        network.backbone.requires_grad_(False)
    if settings.checkpoint_activations:
        try:
            network.backbone.net.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError) as error:
            raise HfgdError(
                f"timm cannot compute the activations of '{recipe.model.backbone.name}' again; "
                "leave train.checkpoint_activations out for it."
            ) from error
    return network


def without_slow_strides(network: nn.Module) -> None:
    """Let strided depthwise convolutions train as dense ones of which every second value is kept.

    The results are the same. On a CPU in bf16 the backward pass of the strided ones falls to a
    general kernel that takes 2 to 22 times longer (benchmarks/training.md).
    """
    for module in network.modules():
        if type(module) is not nn.Conv2d or module.padding_mode != "zeros":
            continue
        if max(module.stride) > 1 and module.groups == module.in_channels > 1:
            module.forward = partial(_dense_then_strided, module)  # type: ignore[method-assign]


def _dense_then_strided(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if not conv.training:
        return nn.Conv2d.forward(conv, x)
    rows, columns = conv.stride
    y = F.conv2d(x, conv.weight, conv.bias, 1, conv.padding, conv.dilation, conv.groups)
    return y[..., ::rows, ::columns]


def resting_modules(network: Segmenter, recipe: Recipe) -> list[nn.Module]:
    """What stays in evaluation mode while the rest is trained."""
    resting: list[nn.Module] = []
    if "backbone" in recipe.train.freeze:
        resting += network.backbone.modules()
    if "batch_norm" in recipe.train.freeze:
        norms = nn.modules.batchnorm._BatchNorm
        resting += [module for module in network.modules() if isinstance(module, norms)]
    return resting


def with_synchronised_norms(network: Segmenter) -> Segmenter:
    """Batch norms that take their statistics over all processes (timm's keep their activations)."""
    converted: Segmenter = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted
