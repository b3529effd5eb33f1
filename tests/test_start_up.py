"""Names are checked, and recipes listed, without importing PyTorch or any implementation."""

import os
import subprocess
import sys

import pytest

from hfgd.losses.criteria import CRITERIA
from hfgd.losses.spec import CRITERION_NAMES
from hfgd.model.config import ENCODER_NAMES, SMP_NAMES, UPSAMPLER_NAMES
from hfgd.model.encoders import ENCODERS
from hfgd.model.upsamplers import UPSAMPLERS
from hfgd.model.upsamplers.smp import SMP


def test_the_lists_of_names_are_the_keys_of_the_implementations():
    assert tuple(CRITERIA) == CRITERION_NAMES
    assert tuple(ENCODERS) == ENCODER_NAMES
    assert tuple(UPSAMPLERS) == UPSAMPLER_NAMES
    assert tuple(SMP) == SMP_NAMES


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["recipes"], 0),
        (["recipes", "--table", "3"], 0),
        (["info", "hfgd_mobilenetv2", "--no-count"], 0),
        (["info", "hfgd_mobilnetv2"], 2),
        (["train", "hfgd_mobilnetv2", "--data", "scenes"], 2),
        (["train", "hfgd_mobilenetv2", "--data", "scenes", "--set", "model.encoder=case"], 2),
        (["train", "hfgd_mobilenetv2", "--data", "scenes", "--set", "loss.criterion=dise"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_name_is_checked_before_pytorch_is_imported(words, code, tmp_path):
    program = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'timm', 'lightning', 'matplotlib'):\n"
        "            raise SystemExit(f'imports {name}')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from hfgd.cli import main\n"
        f"sys.argv = ['hfgd', *{words!r}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "140"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout if code == 0 else "did you mean" in done.stderr
    assert not list(tmp_path.iterdir())
