"""Tables for the terminal: recipes and costs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from hfgd.errors import HfgdError, unknown
from hfgd.recipes import RECIPES, TABLES, find_recipe
from hfgd.recipes.tables import CLASS_COUNTS, OURS, PAPER_GMACS, ROWS
from hfgd.types import Size

if TYPE_CHECKING:
    from hfgd.cost import Cost

GIGA, MIB = 1e9, 2**20


def named_table() -> Table:
    """The recipes with a name of their own."""
    table = _table("Named recipes", "name", "backbone", "what it is")
    for name, make in RECIPES.items():
        recipe = make()
        table.add_row(name, recipe.model.backbone.name.split(".")[0], recipe.description)
    return table


def rows_table(table: str | None, dataset: str | None) -> Table:
    """The paper's rows, of one table or data set where asked."""
    wanted = f"table{table}" if table and table.isdecimal() else table
    if wanted is not None and wanted not in TABLES:
        raise unknown("table", table or "", TABLES)
    if dataset is not None and dataset not in CLASS_COUNTS:
        raise unknown("data set of the paper", dataset, CLASS_COUNTS)
    shown = _table("The paper's rows", "name", "data set", "backbone", "what")
    shown.add_column("paper mIoU", justify="right")
    shown.add_column("ours", justify="right")
    for row in ROWS.values():
        if wanted in (None, row.table) and dataset in (None, row.setup.dataset):
            backbone = row.backbone.name.split(".")[0]
            if row.backbone.output_stride != 32:
                backbone += f" D{row.backbone.output_stride}"
            paper = " / ".join(f"{value} {key.upper()}" for key, value in row.paper.items())
            ours = f"{OURS[row.name]:.2f}" if row.name in OURS else "not run"
            shown.add_row(row.name, row.setup.dataset, backbone, row.what, paper, ours)
    return shown


def cost_table(
    name: str, size: Size | None, classes: int | None, latency: bool
) -> Iterator[Table | str]:
    """The cost of a recipe, part by part, and what else was asked for."""
    recipe = find_recipe(name)
    size = size or recipe.augment.crop
    if min(size) < 1:
        raise HfgdError(f"--size takes a height and a width of at least 1, not {size}.")
    from hfgd.cost import measure_cost, measure_latency
    from hfgd.model.backbones.timm_pyramid import licence_in_words, licence_of

    count = classes or CLASS_COUNTS.get(recipe.dataset or "", 59)
    cost = measure_cost(recipe.model, count, size)
    table = _table(f"{recipe.name}, {size[0]}×{size[1]} (height × width), {count} classes", "part")
    for column in ("parameters", "GMACs", "GFLOPs"):
        table.add_column(column, justify="right")
    for part in cost.parts:
        table.add_row(part.name, f"{part.parameters:,}", *_giga(part.macs))
    table.add_section()
    table.add_row("all", f"{cost.parameters:,}", *_giga(cost.macs))
    yield table
    yield "GMACs: one per multiply-add (the paper's «GFLOPs»); GFLOPs: two per multiply-add."
    backbone = recipe.model.backbone.name
    yield f"pre-trained weights of {backbone}: {licence_in_words(licence_of(backbone))}"
    yield f"activations kept for training: {cost.activation_bytes / MIB:.0f} MiB an image (fp32)"
    if latency:
        yield f"latency: {measure_latency(recipe.model, count, size)}"


def recipe_yaml(name: str) -> str:
    """The resolved recipe, every key, as YAML."""
    return find_recipe(name).yaml()


def exported_table(path: str) -> Table:
    """What an exported file says of itself."""
    from hfgd.export.runtime import read_facts

    facts = read_facts(path)
    shown = facts.model_dump(mode="json") | {"classes": ", ".join(facts.classes)}
    shown["palette"] = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in facts.palette)
    shown["size"] = "any" if facts.size is None else _by(facts.size)
    shown |= {"smallest": _by(facts.smallest), "crop": _by(facts.crop)}
    table = _table(path, "what", "value")
    for key, value in shown.items():
        text = ", ".join(f"{v:.4g}" for v in value) if isinstance(value, list) else str(value)
        table.add_row(key.replace("_", " "), text)
    return table


def model_table(path: str) -> Table:
    """What a run folder or a model folder says of itself."""
    from hfgd.checkpoint import read_config
    from hfgd.model.backbones.timm_pyramid import licence_in_words

    config = read_config(path)
    shown: dict[str, str] = {"name": config.name}
    if config.model is not None:
        spec = config.model
        shown |= {"backbone": spec.backbone.name, "encoder": spec.encoder}
        shown |= {"upsampler": f"{spec.upsampler}, stride {spec.stride}"}
    elif config.builder is not None:
        shown["builder"] = config.builder.name
    shown |= {"classes": ", ".join(config.classes), "crop": _by(config.crop)}
    shown |= {"branch": config.branch} | {key: str(value) for key, value in config.facts.items()}
    shown["pre-trained weights"] = licence_in_words(config.licence_of_backbone)
    table = _table(path, "what", "value")
    for key, text in shown.items():
        table.add_row(key, text)
    return table


def _by(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def cost_table_9(number: str) -> Table:
    """The paper's Table 9 beside our count."""
    if number.removeprefix("table") != "9":
        raise HfgdError("only Table 9 of the paper lists costs; use --table 9.")
    table = _table("Table 9: 513×513, 59 classes; the paper's «GFLOPs» are GMACs", "row", "what")
    for column in ("paper", "GMACs", "ratio", "GFLOPs", "parameters"):
        table.add_column(column, justify="right")
    for name, cost in costs_of_table_9().items():
        paper, ours = PAPER_GMACS[name], cost.macs / GIGA
        table.add_row(
            name,
            ROWS[name].what,
            f"{paper:.2f}",
            f"{ours:.2f}",
            f"{ours / paper:.3f}",
            f"{2 * ours:.2f}",
            f"{cost.parameters:,}",
        )
    return table


def costs_of_table_9() -> "dict[str, Cost]":
    """The four models of Table 9, counted."""
    from hfgd.cost import measure_cost

    return {
        name: measure_cost(ROWS[name].recipe().model, ROWS[name].setup.classes, (513, 513))
        for name in PAPER_GMACS
    }


def _giga(macs: int) -> tuple[str, str]:
    return f"{macs / GIGA:.2f}", f"{2 * macs / GIGA:.2f}"


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title)
