"""What pyproject.toml promises: extras that name each other, and requirements without PyTorch."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def name(requirement: str) -> str:
    return re.split(r"[<>=~!\[ ]", requirement)[0]


def test_the_extra_all_holds_every_other():
    (every,) = EXTRAS["all"]
    named = set(re.search(r"\[(.*)\]", every)[1].split(","))
    for extra in list(named):
        for line in EXTRAS[extra]:
            if name(line) == "hfgd":
                named |= set(re.search(r"\[(.*)\]", line)[1].split(","))
    assert named == set(EXTRAS) - {"all"}


def test_every_extra_that_the_pages_name_exists():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.py")]
    named = set()
    for page in pages:
        for found in re.findall(r"hfgd\[([a-z,]+)\]", page.read_text(encoding="utf-8")):
            named |= set(found.split(","))
    assert len(named) > 5
    assert named <= set(EXTRAS)


@pytest.mark.skipif(not (ROOT / "tools").is_dir(), reason="the wheel's tests have no tools/")
def test_what_the_container_installs_is_the_projects_own_list():
    script = runpy.run_path(str(ROOT / "tools" / "serving_requirements.py"))
    base = {name(line) for line in PROJECT["dependencies"]}
    assert script["NOT_SERVED"] < base  # a name that is misspelt would be installed
    lines = script["requirements"]()
    assert {name(line) for line in lines} >= (base - script["NOT_SERVED"]) | {"onnxruntime"}
    assert not {name(line) for line in lines} & {"torch", "torchvision"}
