"""``hfgd``: the verbs. Each imports what it needs, so that help comes without waiting."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hfgd.cli import data
from hfgd.cli.export import export
from hfgd.cli.failures import UNEXPECTED, printable, report, sentence_of
from hfgd.cli.figure import figure
from hfgd.cli.options import Code
from hfgd.cli.predict import predict
from hfgd.cli.review import review
from hfgd.cli.serve import serve
from hfgd.cli.share import card, push
from hfgd.errors import HfgdError
from hfgd.parallel.launch import end_with_starter

app = typer.Typer(
    name="hfgd",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its help reads Markdown, whose imports take as long as all the rest
    context_settings={"max_content_width": 110},
    help="High-level Feature Guided Decoding: train, score and use semantic-segmentation models.",
    epilog="Start with: hfgd demo. Exit codes: 0 good, 1 found problems, 2 bad input, "
    "3 training could not go on, 70 an error in hfgd itself, 130 interrupted, 143 terminated.",
)
app.add_typer(data.app, name="data")
app.command()(review)
app.command()(serve)
app.command()(push)
app.command()(card)

Model = Annotated[
    str, typer.Argument(help="A run or model folder, an exported file, hf://user/name.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; the GPU where there is one.")]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16", "auto"],
    typer.Option(help="auto: bf16 where the hardware multiplies it, fp32 elsewhere."),
]
Devices = Annotated[
    int, typer.Option(min=1, help="Processes on this machine: GPUs, or shares of the CPU.")
]
Nodes = Annotated[int, typer.Option(min=1, help="Machines; each runs the same command.")]
DataYaml = Annotated[
    Path | None, typer.Option(help="A data.yaml that does not lie in the data folder.")
]

Gallery = Annotated[
    int, typer.Option(min=0, help="Images in report.html at most: telling ones and some others.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one key, e.g. --set optim.lr=0.02; repeatable."),
]
Toy = Annotated[
    bool, typer.Option("--toy", help="The same composition in seconds: toy backbone, 'scenes'.")
]


def _version(show: bool) -> None:
    if show:
        from hfgd import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """High-level Feature Guided Decoding: train, score and use semantic-segmentation models."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the two runs and the picture go.")] = Path(
        "runs/demo"
    ),
    iterations: Annotated[
        int, typer.Option(min=1, help="Training iterations of each model.")
    ] = 400,
    pretrained: Annotated[
        str | None, typer.Option(help="ImageNet weights of mobilenetv2_100: a file, or 'true'.")
    ] = None,
) -> None:
    """Train SemanticFPN and HFGD on generated streets and show both."""
    from hfgd.demo import run_demo

    print(run_demo(out, iterations, pretrained))


@app.command()
def recipes(
    table: Annotated[
        str | None, typer.Option(help="Only the rows of one table of the paper, e.g. 3.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Only the rows on one data set, e.g. cityscapes.")
    ] = None,
) -> None:
    """List the recipes: named ones, all rows of the paper's tables."""
    from hfgd.cli.print_table import show
    from hfgd.cli.show import named_table, rows_table

    rows = rows_table(table, data)
    if table is None and data is None:
        show(named_table(), below=("what it is",))
        print()
    show(rows, below=("data set", "backbone", "what"))


@app.command()
def info(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe, a row, a YAML file, a run folder, or an exported file."),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="9: the paper's Table 9 beside our count.")
    ] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="HEIGHT WIDTH; the recipe's crop by default.")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes.")] = None,
    latency: Annotated[bool, typer.Option(help="Also time one image on this machine.")] = False,
    no_count: Annotated[
        bool, typer.Option("--no-count", help="Print the recipe as YAML; count nothing.")
    ] = False,
) -> None:
    """What a model costs, or what a saved or exported one says.

    Costs: parameters, GMACs, GFLOPs per part.
    """
    from hfgd.cli.print_table import show
    from hfgd.cli.show import cost_table, cost_table_9, exported_table, model_table, recipe_yaml
    from hfgd.export.sessions import is_exported
    from hfgd.hub import is_hub

    if (recipe is None) == (table is None):
        raise HfgdError("info takes either a recipe or --table 9.")
    if table is not None:
        show(cost_table_9(table), below=("what",))
        return
    if is_exported(recipe or ""):
        show(exported_table(recipe or ""))
        return
    if is_hub(recipe or "") or Path(recipe or "").is_dir():
        show(model_table(recipe or ""))
        return
    if no_count:
        print(recipe_yaml(recipe or ""), end="")
        return
    for part in cost_table(recipe or "", size, classes, latency):
        if isinstance(part, str):
            print(part)
        else:
            show(part)


@app.command()
def ablate(
    rows: Annotated[
        list[str],
        typer.Argument(help="Tables of the paper (table3, or 3) and single rows (table3/full)."),
    ],
    data: Annotated[
        str | None, typer.Option(help="A data folder, a data.yaml with a path, or 'scenes'.")
    ] = None,
    data_yaml: DataYaml = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each row, seeds 0, 1, …")] = 1,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="runs/ROWS by default.")] = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    toy: Toy = False,
    code: Code = None,
) -> None:
    """Run rows of the paper's tables on any data, into one table.

    Mean ± spread over the seeds, beside the paper's numbers.
    """
    from hfgd.ablate import ablate as run
    from hfgd.ablate import markdown
    from hfgd.parallel.launch import is_main
    from hfgd.recipes import parse_overrides

    changes = _with_data(parse_overrides(settings or []), data, data_yaml)
    if data is None and not toy:
        raise HfgdError("ablate needs data: give --data FOLDER, or --toy for a try on 'scenes'.")
    names = [f"table{name}" if name.isdecimal() else name for name in rows]
    folder = out or Path("runs") / "+".join(name.replace("/", "-") for name in names)
    if _launched(devices, nodes):
        return
    results = run(names, changes, folder, seeds, toy, code)
    if not is_main():
        return
    print(markdown(results, changes))
    print(f"written: {folder}/ablation.md, ablation.json, ablation.png")


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A named recipe ('hfgd recipes') or a YAML file.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A data folder, a data.yaml with a path, or 'scenes'.")
    ] = None,
    data_yaml: DataYaml = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME by default.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    init: Annotated[
        str | None,
        typer.Option(help="A trained model to start from; classes are matched by name."),
    ] = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Bit for bit the same on the same machine.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write where the time of a step goes into the run.")
    ] = False,
    toy: Toy = False,
    code: Code = None,
) -> None:
    """Train a recipe on data: a scored, shown model in a run folder."""
    from hfgd.parallel.launch import is_main
    from hfgd.recipes import find_recipe, parse_overrides
    from hfgd.recipes import toy as as_toy

    if resume and out is None:
        raise HfgdError("--resume needs --out, the run folder to go on with.")
    resolved = None
    if recipe is not None:
        resolved = as_toy(find_recipe(recipe)) if toy else find_recipe(recipe)
        changes = _with_data(parse_overrides(settings or []), data, data_yaml)
        changes |= {"train.init": init} if init else {}
        changes |= {"train.deterministic": True} if deterministic else {}
        resolved = resolved.with_(**changes)
    elif settings or data or data_yaml or init or deterministic or not resume:
        raise HfgdError("train needs a recipe: a name from 'hfgd recipes', or a YAML file.")
    from hfgd.training.fit import fit  # after the recipe: a misspelt name is refused at once
    from hfgd.training.run_folder import free_folder

    folder = out or free_folder(resolved.name.replace("/", "-") if resolved else "run")
    if _launched(devices, nodes, None if out else folder):
        return
    run = fit(resolved, folder, resume, profile, code=code)
    if not is_main():
        return
    _show(run.report)
    print(f"\nrun folder: {run.folder.root}  (report.html, report.md, panels.png, …)")
    print(f"next:       hfgd predict {run.folder.root} IMAGE_OR_FOLDER --out predictions")


@app.command("eval")
def evaluate_(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(help="A data folder, a data.yaml, or 'scenes'; a run's own by default."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The split to score; val, or a run's own.")
    ] = None,
    data_yaml: DataYaml = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes; MODEL/eval-DATA-SPLIT by default.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 2,
    branch: Annotated[
        Literal["fine", "guide", "aux"] | None,
        typer.Option(help="guide: what the guiding branch alone would score; the model's own."),
    ] = None,
    precision: Precision = "fp32",
    protocol: Annotated[
        str, typer.Option(help="ss, mf (multi-scale and flip), slide, or a YAML file.")
    ] = "ss",
    boundary: Annotated[
        float, typer.Option(min=0, help="Boundary IoU's width, of the image diagonal; 0: none.")
    ] = 0.02,
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", help="Score classes as one, e.g. vehicles=car,bus; repeatable."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only that many images, spread evenly.")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Fit the temperature of 'predict --confidence'."),
    ] = False,
    gallery: Gallery = 500,
    engine: Annotated[
        Literal["ray"] | None, typer.Option(help="ray: count on a Ray cluster, or on this machine.")
    ] = None,
    device: Device = None,
    devices: Devices = 1,
    nodes: Nodes = 1,
    code: Code = None,
) -> None:
    """Score a model on labelled images.

    A table per class, mIoU, mAcc, aAcc; report.html, report.json and report.md.
    """
    from dataclasses import replace

    from hfgd.evaluation.evaluate_model import evaluate_model, what_to_score
    from hfgd.inference.labeller import InferenceConfig
    from hfgd.parallel.launch import is_main

    if _launched(devices, nodes):
        return
    what = replace(
        what_to_score(model, data, split, data_yaml, limit),
        workers=workers,
        boundary=boundary or None,
        groups=groups or (),
        gallery=gallery,
        calibrate=calibrate,
    )
    how = InferenceConfig(protocol, branch, device, precision, code=code)
    if engine == "ray":
        from hfgd.ray import score

        report, folder = evaluate_model(model, what, how, out, score)
    else:
        report, folder = evaluate_model(model, what, how, out)
    if not is_main():
        return
    _show(report)
    if report.calibration is not None:
        fitted = report.calibration
        before, after = 100 * fitted.before, 100 * fitted.after
        print(f"confidence: temperature {fitted.temperature:.3f}, kept beside the model; ", end="")
        print(f"calibration error {before:.2f} % before, {after:.2f} % after")
    print(f"\nreport: {folder}  (report.html, report.md, report.json, panels.png, …)")


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(help="Two run or model folders, or more.")],
    data: Annotated[
        str | None, typer.Option(help="What to score on; the first run's own data by default.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="The split; the first run's val split.")] = None,
    data_yaml: DataYaml = None,
    protocol: Annotated[str, typer.Option(help="ss, mf, slide, or a YAML file.")] = "ss",
    out: Annotated[Path, typer.Option(help="Where table and pictures go.")] = Path("compare"),
    count: Annotated[int, typer.Option(min=1, help="Images in the picture.")] = 6,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only that many images, spread evenly.")
    ] = None,
    gallery: Gallery = 500,
    precision: Precision = "fp32",
    device: Device = None,
    code: Code = None,
) -> None:
    """Models side by side: differences of each class, with intervals.

    And panels of where they differ.
    """
    from dataclasses import replace

    from hfgd.evaluation.compare import compare as run
    from hfgd.evaluation.evaluate_model import what_to_score
    from hfgd.inference.labeller import InferenceConfig

    what = what_to_score(models[0], data, split, data_yaml, limit, "compare")
    what = replace(what, gallery=gallery)
    print(
        run(models, InferenceConfig(protocol, None, device, precision, code=code), what, out, count)
    )
    print(f"written: {out}/report.html, compare.md, compare.json, compare.png")


app.command()(figure)
app.command("val", hidden=True, help="The same as eval.")(evaluate_)


app.command()(predict)


app.command()(export)


def _launched(devices: int, nodes: int, folder: Path | None = None) -> bool:
    """Whether this command was run as several processes, which have ended; False in each of them.

    ``folder``: the run folder that was chosen because --out was not given.
    """
    from hfgd.parallel.launch import launch, take_part

    if take_part():
        if folder is not None:
            raise HfgdError("several processes need --out, so that they agree on the run folder.")
        return False
    if devices * nodes == 1:
        return False
    launch([*sys.argv[1:], *(["--out", str(folder)] if folder else [])], devices, nodes)
    return True


def _with_data(changes: dict[str, Any], data: str | None, data_yaml: Path | None) -> dict[str, Any]:
    given = {"data.location": data, "data.data_yaml": data_yaml and str(data_yaml)}
    return changes | {key: value for key, value in given.items() if value is not None}


def _show(report: object) -> None:
    from hfgd.cli.print_table import show
    from hfgd.evaluation.report import Report, percent

    assert isinstance(report, Report)
    show(report.table())
    means = "   ".join(f"{name} {percent(v)}" for name, v in report.scores.all_means().items())
    print(f"{means}   (percent; {report.protocol.describe()})")
    if report.scores.absent:
        print(f"absent, in no mean: {', '.join(report.scores.absent)}")


def _print_all_letters(stdout: Any) -> None:
    """A pipe on Windows has an encoding without ×, and without many a class's name; and no encoding
    has the bytes of a file name that is no text."""
    if getattr(stdout, "errors", None) == "strict":
        stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the program; a user's mistake is one sentence and an exit code, never a traceback."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # what it starts imports nothing from here
    _print_all_letters(sys.stdout)
    end_with_starter()
    try:
        app()
    except HfgdError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted.", 130)
    except BrokenPipeError:
        sys.exit(141)
    except MemoryError:
        _fail("there is not enough memory for this; close other programs, or give less at once.", 2)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is not None:
            _fail(sentence, 2)
        what, where = report(error)
        _fail(what, UNEXPECTED, where)


def _fail(message: str, code: int, *more: str) -> None:
    message = printable(message)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:  # one of several processes
        from hfgd.parallel.launch import first_to_say

        if not first_to_say(message):
            sys.exit(code)
    print(f"hfgd: {message}", *more, sep="\n", file=sys.stderr)
    sys.exit(code)
