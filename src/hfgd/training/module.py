"""The Lightning module: thin; it holds a network and is not one."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from hfgd.data.dataset import Batch
from hfgd.errors import HfgdError, TrainingStopped
from hfgd.losses.terms import loss_terms
from hfgd.model.network import Network, check_output, in_channels_last
from hfgd.parallel.processes import summed
from hfgd.recipes.spec import Recipe, TrainSpec
from hfgd.training.optim import make_optimiser, poly_schedule, rate_scales

N = TypeVar("N", bound=Network)
STEP = 2  # keeps this stream of random numbers apart from the loader's


class NonFiniteLossError(HfgdError):
    """A loss that is infinite or no number, with the iteration and the images of the batch."""

    def __init__(self, iteration: int, names: list[str], terms: dict[str, Tensor]) -> None:
        values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
        super().__init__(
            f"the loss is not finite at iteration {iteration} ({values}); "
            f"the images of its batch: {', '.join(names)}; a smaller optim.lr is the usual remedy."
        )


class NonFinite:
    """Sees that every loss is a number, one step late: a step never waits for the GPU.

    The answer of a step travels while the next one is computed and is read after it; before
    anything is saved it is read at once (``check``), so that no broken weights are kept.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, list[str], dict[str, Tensor], Tensor]] = []
        self._copied: Any = None

    def watch(self, iteration: int, names: list[str], terms: dict[str, Tensor]) -> None:
        """Look at the step before; remember this one."""
        self.check()
        values = torch.stack(list(terms.values())).sum()
        bad = summed((~torch.isfinite(values)).float())  # in any process
        answer = bad.to("cpu", non_blocking=True)  # into pinned memory
        if bad.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        self._pending.append((iteration, names, terms, answer))

    def check(self) -> None:
        """Read what is outstanding; raises NonFiniteLossError."""
        while self._pending:
            iteration, names, terms, answer = self._pending.pop(0)
            if self._copied is not None:
                self._copied.synchronize()
            if answer.item():
                if all(torch.isfinite(term).item() for term in terms.values()):
                    raise HfgdError("the loss is not finite in another process.")
                raise NonFiniteLossError(iteration, names, terms)


class LitSegmenter(L.LightningModule):
    """One training step of a network under a recipe."""

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        self.network, self._resting = prepared(network, recipe)
        self.recipe = recipe
        # neither is a module: names in the state stay what they are, and nothing is in it twice
        self._run = [torch.compile(network.forward) if recipe.train.compile else network]
        self._scales = rate_scales(network, recipe)
        self.mark: Callable[[str], None] = lambda phase: None  # a profile listens here
        self.failures = NonFinite()
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
        image = batch.image.float() / 255  # bytes travelled
        if self.recipe.train.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        output = self._run[0](image)
        self.mark("forward")
        check_output(output, len(self.network.classes))
        terms = loss_terms(output, batch.label, self.recipe.loss)
        loss = torch.stack(list(terms.values())).sum()
        detached = {name: term.detach() for name, term in terms.items()}
        self.failures.watch(self.global_step + 1, batch.names, detached)
        return {"loss": loss, "terms": detached}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """States that earlier versions wrote hold every tensor of the network twice."""
        state = checkpoint["state_dict"]
        for key in [key for key in state if key.startswith("run.")]:
            del state[key]
        mine = {key: value.shape for key, value in self.state_dict().items()}
        theirs = {key: value.shape for key, value in state.items()}
        if mine != theirs:
            odd = sorted(key for key in mine | theirs if mine.get(key) != theirs.get(key))
            raise TrainingStopped(
                f"the network is not the one that this run trained (its '{odd[0]}' is another, or "
                "missing); a network that was put together by hand is given to fit(..., network=...) "
                "again when its run is resumed."
            )

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

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Cut the gradient's norm; Lightning refuses to for fused optimisers in mixed precision.

        A fused optimiser divides by fp16's loss scale in its step, which is too late for the norm.
        """
        if gradient_clip_val is None:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

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


def prepared(network: Network, recipe: Recipe) -> tuple[Network, list[nn.Module]]:
    """The network as the recipe wants it trained, and its modules that stay in evaluation mode.

    Raises HfgdError for what it cannot do.
    """
    settings = recipe.train
    resting: list[nn.Module] = []
    if settings.channels_last:
        network = in_channels_last(network)
    if settings.precision == "bf16-mixed" and not torch.accelerator.is_available():
        without_slow_strides(network)
    if "backbone" in settings.freeze:
        resting += network.freeze_backbone()
    if "batch_norm" in settings.freeze:
        norms = nn.modules.batchnorm._BatchNorm
        resting += [module for module in network.modules() if isinstance(module, norms)]
    if settings.checkpoint_activations:
        network.checkpoint_activations()
    return network, resting


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


def with_synchronised_norms(network: N) -> N:
    """Batch norms that take their statistics over all processes (timm's keep their activations)."""
    converted: N = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def seen_by_norms(network: nn.Module, settings: TrainSpec, world: int) -> str | None:
    """One line where batch norms take their statistics of less than the batch; otherwise None."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms or "batch_norm" in settings.freeze:
        return None
    synchronised = any(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    images = settings.batch_size // settings.accumulate // (1 if synchronised else world)
    if images == settings.batch_size:
        return None
    why = [] if settings.accumulate == 1 else [f"train.accumulate {settings.accumulate}"]
    if world > 1 and not synchronised:
        why.append(f"{world} processes, whose norms are synchronised on GPUs only")
    return (
        f"batch norms take their statistics of {images} images of the {settings.batch_size} of a "
        f"batch ({', '.join(why)})"
    )
