"""What the site takes from elsewhere: commands, the recipe's keys, benchmark pages, the notebook.

They are written before each build and are not committed, so they cannot go stale.
"""

import dataclasses
import inspect
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel

from hfgd.cli.main import app as program
from hfgd.recipes import Recipe, find_recipe

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
# names in our signatures that other projects document: project → name, type, page
NAMES = {
    "python": [
        ("pathlib.Path", "py:class", "library/pathlib.html#$"),
        ("collections.abc.Sequence", "py:class", "library/collections.abc.html#$"),
        ("collections.abc.Mapping", "py:class", "library/collections.abc.html#$"),
    ],
    "torch": [
        ("torch.Tensor", "py:class", "tensors.html#$"),
        ("torch.nn.Module", "py:class", "generated/torch.nn.Module.html#$"),
        ("torch.device", "py:class", "tensor_attributes.html#$"),
    ],
    "numpy": [("numpy.ndarray", "py:class", "reference/generated/numpy.ndarray.html#$")],
    "pillow": [("PIL.Image.Image", "py:class", "reference/Image.html#$")],
}


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_config_value("generated_inventories", {}, "env")
    app.connect("config-inited", write_inventories, priority=100)
    app.connect("config-inited", write_pages)
    app.connect("source-read", links_out_of_docs)
    return {"parallel_read_safe": True}


def write_pages(app: Any, config: Any) -> None:
    """The reference pages and copies of pages that lie outside docs/."""
    reference = DOCS / "reference"
    reference.mkdir(exist_ok=True)
    (reference / "cli.md").write_text("\n".join(cli()), encoding="utf-8")
    (reference / "recipe.md").write_text("\n".join(recipe_keys()), encoding="utf-8")
    copies = DOCS / "benchmarks"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for page in (ROOT / "benchmarks").glob("*.md"):
        text = page.read_text(encoding="utf-8").replace("](../docs/", "](../")
        (copies / page.name).write_text(text, encoding="utf-8")
    names = sorted(page.stem for page in copies.glob("*.md"))
    index = ["# Benchmarks", "", "```{toctree}", *names, "```", ""]
    (copies / "index.md").write_text("\n".join(index), encoding="utf-8")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (DOCS / "contributing.md").write_text(text.replace("](docs/", "]("), encoding="utf-8")
    page = "\n".join(notebook(os.environ.get("GITHUB_REPOSITORY")))
    (DOCS / "notebook.md").write_text(page, encoding="utf-8")


def links_out_of_docs(app: Any, page: str, source: list[str]) -> None:
    """Links that are right in the repository → right in the site."""
    depth = "../" * (page.count("/") + 1)
    text = source[0]
    text = text.replace(f"]({depth}benchmarks/", f"]({depth[3:]}benchmarks/")
    text = text.replace(f"]({depth}CONTRIBUTING.md", f"]({depth[3:]}contributing.md")
    text = re.sub(
        rf"\[([^\]]+)\]\({re.escape(depth)}(?:src|tests|examples|studies|dev|tools|README)[^)]*\)",
        r"\1",
        text,
    )
    source[0] = text


def notebook(repository: str | None) -> Iterator[str]:
    """The notebook as a page. ``repository``, OWNER/NAME on GitHub, which its workflows know, gives it
    badges that open it in Colab and Kaggle; a clone does not know where it is published."""
    place = "examples/own_data.ipynb"
    if repository:
        address = f"github.com/{repository}/blob/main/{place}"
        colab = f"https://colab.research.google.com/{address.replace('.com', '', 1)}"
        kaggle = f"https://kaggle.com/kernels/welcome?src=https://{address}"
        badge = "https://colab.research.google.com/assets/colab-badge.svg"
        yield f"[![Open in Colab]({badge})]({colab})"
        badge = "https://kaggle.com/static/images/open-in-kaggle.svg"
        yield f"[![Open in Kaggle]({badge})]({kaggle})\n"
    for cell in json.loads((ROOT / place).read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if repository:
            text = text.replace("git+REPOSITORY", f"git+https://github.com/{repository}")
        yield text + "\n" if cell["cell_type"] == "markdown" else f"```ipython3\n{text}\n```\n"
    yield f"This page is the notebook `{place}` of a clone; a test runs it from top to bottom."


def cli() -> Iterator[str]:
    """Every command with its options, from the program."""
    yield "# Commands\n"
    yield "Made from the program; `hfgd COMMAND --help` says the same.\n"
    group: Any = typer.main.get_command(program)
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield f"## hfgd {name}\n"
        yield f"{_text(command.help)}\n"
        inner = getattr(command, "commands", None)
        if inner is None:
            yield from _options(command)
            continue
        for sub, each in inner.items():
            yield f"### hfgd {name} {sub}\n"
            yield f"{_text(each.help)}\n"
            yield from _options(each)


def _options(command: Any) -> Iterator[str]:
    yield "| | | default |\n| --- | --- | --- |"
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        names = " ".join(f"`{name}`" for name in parameter.opts)
        if not parameter.opts[0].startswith("-"):
            names = f"`{parameter.name.upper()}`"
        choices = getattr(getattr(parameter, "type", None), "choices", None)
        text = _text(parameter.help) + (
            f" One of {', '.join(map(str, choices))}." if choices else ""
        )
        default = parameter.default
        shown = (
            "required" if parameter.required else "" if default in (None, False) else f"`{default}`"
        )
        yield f"| {names} | {text} | {shown} |"
    yield ""


def recipe_keys() -> Iterator[str]:
    """Every key of a recipe with its type and default, from pydantic."""
    yield "# Recipe keys\n"
    yield (
        "Made from the program. `--set KEY=VALUE` changes one, a YAML file with `base: NAME` several; "
        "a run folder's `recipe.yaml` holds them all. Defaults are those of a bare recipe; a named one "
        "(`hfgd recipes`) has its own.\n"
    )
    yield from _keys(Recipe, "")
    yield "## A whole one: hfgd_mobilenetv2\n"
    yield f"```yaml\n{find_recipe('hfgd_mobilenetv2').yaml()}```\n"


def _keys(kind: type[BaseModel], prefix: str) -> Iterator[str]:
    parts = {
        name: field.annotation
        for name, field in kind.model_fields.items()
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)
    }
    yield f"## {prefix.rstrip('.') or 'recipe'}\n"
    yield inspect.cleandoc(kind.__doc__ or "").replace("``", "`") + "\n"
    yield "| key | type | default |\n| --- | --- | --- |"
    for name, field in kind.model_fields.items():
        if name in parts:
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if dataclasses.is_dataclass(default):  # guidance: its keys are said one by one
            for each in dataclasses.fields(default):
                yield _row(f"{prefix}{name}.{each.name}", each.type, getattr(default, each.name))
            continue
        shown = "required" if field.is_required() else default
        yield _row(f"{prefix}{name}", field.annotation, shown)
    yield ""
    for name, part in parts.items():
        yield from _keys(part, f"{prefix}{name}.")


def _row(key: str, kind: Any, default: Any) -> str:
    shown = default if default == "required" else f"`{default}`" if default != "" else "empty"
    cells = (f"`{key}`", _kind(kind), str(shown))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(annotation: Any) -> str:
    text = str(annotation) if not inspect.isclass(annotation) else annotation.__name__
    text = re.sub(r", (?:FieldInfo|AfterValidator|BeforeValidator)\(.*?\)(?=[,\]])", "", text)
    text = re.sub(r"typing\.Annotated\[([^,\[\]]+)[^\]]*\]", r"\1", text)
    text = re.sub(r"[a-z_.]+\.(?=[A-Z])", "", text)
    return f"`{text}`"


def _text(help: str | None) -> str:
    return " ".join((help or "").split()).replace("|", "\\|")


def write_inventories(app: Any, config: Any) -> None:
    """Sphinx inventories of the names above, so that links need no network while building."""
    folder = Path(app.outdir).parent / "inventories"
    folder.mkdir(parents=True, exist_ok=True)
    for project, address in config.generated_inventories.items():
        lines = "".join(f"{name} {kind} 1 {page} -\n" for name, kind, page in NAMES[project])
        head = "\n".join(
            (
                "# Sphinx inventory version 2",
                f"# Project: {project}",
                "# Version: 1",
                "# The remainder of this file is compressed using zlib.",
                "",
            )
        )
        file = folder / f"{project}.inv"
        file.write_bytes(head.encode() + zlib.compress(lines.encode()))
        config.intersphinx_mapping[project] = (address, str(file))
