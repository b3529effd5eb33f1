"""One process or many: who this one is, and sums over all of them.

Processes are started from outside (torchrun, SLURM's srun, ``--devices``); PyTorch joins them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hfgd.parallel.device import own_gpu
from hfgd.parallel.launch import launched

T = TypeVar("T")


def joined() -> tuple[int, int]:
    """This process's rank and the number of processes that have joined; (0, 1) for one alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def joining(device: str) -> Iterator[str]:
    """Join the processes that were started together; yields this one's device."""
    _, world = launched()
    if world == 1:
        yield device
        return
    cuda = device.startswith("cuda")
    if cuda:
        device = own_gpu()
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def summed(x: Tensor) -> Tensor:
    """Σ of ``x`` over the processes; its gradient is summed over them as well."""
    if joined()[1] == 1:
        return x
    total: Tensor = _AllReduce.apply(x)
    return total


class _AllReduce(torch.autograd.Function):
    """PyTorch's own differentiable all-reduce is deprecated in 2.15, and 2.9 lacks its successor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        total = upstream.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def averaged(x: Tensor) -> Tensor:
    """The mean of ``x`` over the processes, with its gradient."""
    return summed(x) / joined()[1]


def everywhere(value: T) -> list[T]:
    """What every process has, by rank; any value that can be pickled."""
    _, world = joined()
    if world == 1:
        return [value]
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, value)
    return parts


def same_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers: batch norms that are not synchronised drift apart."""
    if joined()[1] > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process; every process has to ask."""
    if joined()[1] == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())
