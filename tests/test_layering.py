"""Imports point one way: a module imports only what stands left of it."""

import ast
from pathlib import Path

import hfgd

ROOT = Path(hfgd.__file__).parent
ORDER = [
    ["errors", "geometry", "files", "processes"],
    ["progress", "launch"],
    ["upsampled", "data"],
    ["model"],
    ["car"],
    ["losses"],
    ["recipes"],
    ["checkpoint"],
    ["evaluation"],
    ["training"],
    ["predict", "demo", "api", "cost", "ablate"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imports(path: Path) -> set[str]:
    """The top-level parts of hfgd that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hfgd"):
            names = (
                [node.module] if node.module != "hfgd" else [f"hfgd.{a.name}" for a in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("hfgd.")]
        else:
            continue
        found |= {name.split(".")[1] for name in names if "." in name}
    return found - {"__version__"}


def test_every_part_has_its_place():
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__"} == set(RANK)


def test_imports_point_one_way():
    wrong = []
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part == "__init__":
            continue  # the package's front door
        for other in imports(path):
            if other != part and RANK[other] >= RANK[part]:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong
