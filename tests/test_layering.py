"""Imports point one way: a module imports only what stands left of it."""

import ast
from pathlib import Path

import hfgd

ROOT = Path(hfgd.__file__).parent
ORDER = [
    ["errors", "text"],
    ["types", "files", "code"],
    ["parallel", "parse", "resample"],
    ["progress"],
    ["hub"],
    ["data"],
    ["model"],
    ["losses", "checkpoint"],
    ["export"],
    ["recipes", "inference"],
    ["evaluation"],
    ["training"],
    ["review"],
    ["predict", "demo", "api", "cost", "ablate", "serve", "figures", "card"],
    ["ray"],
    ["cli"],
    ["__main__"],
]
# what a network does for its user stands to its right and is imported when called
DOORS = {("model/network.py", door) for door in ("inference", "checkpoint", "export")}
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
            place = path.relative_to(ROOT).as_posix()
            if (place, other) in DOORS:
                continue
            if other != part and RANK[other] >= RANK[part]:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong


def test_the_network_knows_no_pictures_and_no_recipes():
    for path in (ROOT / "model").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        late = {
            id(n) for block in ast.walk(tree) if isinstance(block, ast.If) for n in ast.walk(block)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in late:
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not any(name.split(".")[0] == "PIL" for name in names), path
                assert "hfgd.recipes" not in names, path


def test_doors_open_when_they_are_called():
    """They are imported inside functions, so that the arrows of a running import point one way."""
    for place, _ in DOORS:
        tree = ast.parse((ROOT / place).read_text(encoding="utf-8"))
        top = {
            name for node in tree.body if isinstance(node, ast.ImportFrom) for name in [node.module]
        }
        assert not any(
            name and name.startswith(("hfgd.inference", "hfgd.checkpoint", "hfgd.export"))
            for name in top
        )
