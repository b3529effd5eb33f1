"""The device: which one, in which precision, with which fast paths; said once, here."""

import os
from pathlib import Path

import torch

from hfgd.errors import HfgdError
from hfgd.types import Precision

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str | None) -> str:
    """The device asked for, or the GPU where there is one; raises HfgdError for an unusable one."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise HfgdError(f"device '{name}' cannot be used here; try --device cpu.") from error
    return name


def own_gpu() -> str:
    """This process's GPU: by its number on this machine, among those that it sees.

    srun --gpus-per-task shows each process its own ones only, which count from 0.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    return f"cuda:{local % max(1, torch.cuda.device_count())}"


def finest_float(device: torch.device) -> torch.dtype:
    """fp64, or fp32 on Apple's GPUs, which have no fp64: for sums over many pixels."""
    return torch.float32 if device.type == "mps" else torch.float64


def pick_precision(name: Precision, device: torch.device) -> Precision:
    """fp32, bf16 or fp16; 'auto' is bf16 where the hardware multiplies it, fp32 elsewhere."""
    if name == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise HfgdError("precision fp16 is for GPUs; on a CPU use fp32, or bf16 where it has it.")
    return name


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16 products; emulated ones are slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        flags = cpu_flags()
        return bool({"amx_bf16", "avx512_bf16"} & flags)
    return False


def cpu_flags() -> set[str]:
    """What the CPU says it can do; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return set(lines[0].partition(":")[2].split()) if lines else set()


def use_fast_matmuls() -> None:
    """fp32 products of training on GPUs in TF32: ten bits of mantissa, several times the speed."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
