"""Print what serving an exported file needs: the base without PyTorch, and the serve extra.

python tools/serving_requirements.py > requirements.txt
"""

import re
import tomllib
from pathlib import Path

# what only training, PyTorch models and reports import
NOT_SERVED = {"torch", "torchvision", "huggingface-hub", "timm", "lightning", "safetensors"}
NOT_SERVED |= {"scipy", "matplotlib", "tensorboard"}


def requirements() -> list[str]:
    """Requirement lines for `hfgd serve model.onnx`."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    runtime = [line for line in extras["export"] if line.startswith("onnxruntime")]
    lines = [*project["dependencies"], *extras["serve"], *runtime]
    return [line for line in lines if re.split(r"[<>=~!\[ ]", line)[0] not in NOT_SERVED]


if __name__ == "__main__":
    print("\n".join(requirements()))
