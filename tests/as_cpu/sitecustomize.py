"""Let every Python of a test run believe that this CPU has bf16 instructions, or has none."""

import os
from pathlib import Path

CPUS = {"1": "flags\t\t: fpu avx2 avx512_bf16 amx_bf16\n", "0": "flags\t\t: fpu avx2\n"}
_read_text = Path.read_text


def read_text(self, *arguments, **named):
    if str(self) == "/proc/cpuinfo":
        return CPUS[os.environ["HFGD_TEST_BF16"]]
    return _read_text(self, *arguments, **named)


if os.environ.get("HFGD_TEST_BF16"):
    Path.read_text = read_text
