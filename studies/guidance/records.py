"""The records of the studies: what every run was, how it scored, how it got there.

    python studies/guidance/records.py add STUDY RUNS      pack the finished runs below the folder RUNS
    python studies/guidance/records.py recipe STUDY RUN    print the recipe of a run, for hfgd train

They are four files in ``records/``, whose README says what stands where. A run is called
as its folder below RUNS is; packing it again replaces it. Of a run's recipe the settings that studies
look at have a column each in ``runs.csv``; the rest is what its study and its row share
(``recipes.yaml``), and what is left is its column ``changes``.
"""

import argparse
import csv
import fcntl
import io
import json
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hfgd.errors import HfgdError
from hfgd.files import write_text
from hfgd.recipes.spec import FREE, check_recipe, read_recipe_yaml

RECORDS = Path(__file__).with_suffix("")
SETTINGS = {  # column → key of the recipe
    "backbone": "model.backbone.name",
    "start": "model.backbone.pretrained",
    "row": "name",
    "rate": "optim.lr",
    "backbone_lr": "optim.backbone_lr",
    "iterations": "train.iterations",
    "batch": "train.batch_size",
    "crop": "augment.crop",
    "width": "model.width",
    "seed": "train.seed",
}
LOCAL = ("model.backbone.pretrained", "data.location", "data.data_yaml", "train.init")  # paths
SCORES = ("mIoU", "mAcc", "aAcc", "fwIoU")


@dataclass(frozen=True)
class Run:
    """``cells``: its line of runs.csv. In percent: ``classes``, IoU of each by branch ('fine', or
    'guide' where it has one), and ``curve``, validation mIoU by iteration."""

    cells: Mapping[str, str]
    classes: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    curve: dict[int, float] = field(default_factory=dict)

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    @property
    def seed(self) -> int:
        return int(self["seed"])

    @property
    def miou(self) -> float:
        """In percent, as ``guide``."""
        return 100 * float(self["mIoU"])

    @property
    def guide(self) -> float | None:
        """What the guiding branch alone scores; None without one."""
        return 100 * float(self["guide mIoU"]) if self["guide mIoU"] else None


def read(study: str, records: Path = RECORDS) -> list[Run]:
    """The runs of a study, by name."""
    runs = {line["run"]: Run(line) for line in _lines(records / "runs.csv", study)}
    if not runs:
        raise HfgdError(f"'{records / 'runs.csv'}' has no run of the study '{study}'.")
    for line in _lines(records / "classes.csv", study):
        # a line without a run is of one that was not packed to its end; absent classes have no IoU
        if line["run"] in runs and line["IoU"]:
            runs[line["run"]].classes[line["branch"]][line["class"]] = 100 * float(line["IoU"])
    for line in _lines(records / "curves.csv", study):
        if line["run"] in runs and line["mIoU"]:
            runs[line["run"]].curve[int(line["iteration"])] = 100 * float(line["mIoU"])
    return list(runs.values())


def recipe(study: str, run: str, records: Path = RECORDS) -> dict[str, Any]:
    """The whole recipe of a run, its paths cut down to names."""
    found = [line for line in _lines(records / "runs.csv", study) if line["run"] == run]
    if not found:
        raise HfgdError(f"'{records / 'runs.csv'}' has no run '{run}' of the study '{study}'.")
    shared = _shared(records)[study]
    changes = dict(pair.split("=", 1) for pair in shlex.split(found[0]["changes"]))
    columns = {key: text for column, key in SETTINGS.items() if (text := found[0].get(column))}
    own = {key: _value(text) for key, text in (columns | changes).items()}
    return _nested(shared["base"] | shared["rows"][found[0]["row"]] | own)


def add(study: str, runs: Path, records: Path = RECORDS, root: Path | None = None) -> list[str]:
    """Pack every finished run below ``runs``, with its guide's scores if it was evaluated into
    ``RUN/guide``, and what ``RUN/facts.json`` knows; returns their names, as below ``root``
    (``runs``). Stopped on the way, new runs are not there yet, and the same command again packs
    them."""
    found = sorted(path.parent for path in runs.rglob("recipe.yaml"))
    done = [folder for folder in found if (folder / "report.json").is_file()]
    if not done:
        raise HfgdError(f"there is no finished run below '{runs}'.")
    with _alone(records):
        shared = _shared(records)
        tables: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for folder in done:
            key = {"study": study, "run": folder.relative_to(root or runs).as_posix()}
            settings = _settings(folder / "recipe.yaml", shared, study)
            report, guide = _json(folder / "report.json"), _json(folder / "guide" / "report.json")
            tables["classes"] += _class_lines(key, fine=report, guide=guide)
            tables["curves"] += _curve_lines(key, folder / "logs")
            scores = {name: report[name] for name in SCORES}
            scores |= {f"guide {name}": guide.get(name, "") for name in SCORES}
            facts = {"data": report["data"], "time": report.get("training time", "")}
            facts |= _json(folder / "facts.json")
            tables["runs"].append(key | facts | settings | scores)
        write_text(records / "recipes.yaml", yaml.safe_dump(shared, sort_keys=False))
        for name in ("classes", "curves", "runs"):  # runs last: what it names is all there
            _replace(records / f"{name}.csv", tables[name])
    return [line["run"] for line in tables["runs"]]


def _settings(path: Path, shared: dict[str, Any], study: str) -> dict[str, str]:
    """The run's setting columns; the first run of a study and of a row says what the others share."""
    flat = _whole(read_recipe_yaml(path), str(path))
    for key in LOCAL:
        if isinstance(flat[key], str):
            kind, colon, place = flat[key].rpartition(":")
            flat[key] = f"{kind}{colon}{Path(place).name}"
    own = {key: flat[key] for key in SETTINGS.values()}
    base = {key: value for key, value in flat.items() if key not in own}
    mine = shared.setdefault(study, {"base": base, "rows": {}})
    row = mine["rows"].setdefault(flat["name"], _difference(flat, mine["base"] | own))
    changes = _difference(flat, mine["base"] | row | own)
    texts = {column: _text(flat[key]) for column, key in SETTINGS.items()}
    return texts | {"changes": shlex.join(f"{key}={_text(v)}" for key, v in changes.items())}


def _difference(flat: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What the recorded recipe does not say; keys that came later have their defaults in it."""
    other = _whole(_nested(recorded), "the study's recipe")
    return {key: value for key, value in flat.items() if other[key] != value}


def _whole(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A recipe with every key, by dotted key."""
    return dict(_flat(check_recipe(content, where).model_dump(mode="json")))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _class_lines(key: dict, **reports: dict) -> Iterator[dict[str, Any]]:
    for branch, report in reports.items():
        for entry in report.get("classes", ()):
            found = {"class": entry["name"], "IoU": entry["IoU"], "Acc": entry["Acc"]}
            yield {**key, "branch": branch, **found}


def _curve_lines(key: dict, logs: Path) -> Iterator[dict[str, Any]]:
    """Losses and validation scores, one line for each iteration that has any."""
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for name in ("train.csv", "val.csv"):
        for line in _lines(logs / name):
            found[int(line["iteration"])] |= line
    return (key | found[iteration] for iteration in sorted(found))


def _lines(path: Path, study: str | None = None) -> list[dict[str, str]]:
    """The lines of a CSV file, of one study if named; none where there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [line for line in csv.DictReader(file) if study is None or line["study"] == study]


def _replace(path: Path, lines: list[dict[str, Any]]) -> None:
    """Put the lines of these runs in place of what stands there of them; sorted by study and run."""
    new = {(line["study"], line["run"]) for line in lines}
    old = _lines(path)
    kept = [line for line in old if (line["study"], line["run"]) not in new]
    merged = sorted([*kept, *lines], key=lambda line: (line["study"], line["run"].split("/")))
    columns = dict.fromkeys(column for line in (*old, *lines) for column in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(merged)
    write_text(path, text.getvalue())


def _shared(records: Path) -> dict[str, Any]:
    """By study: ``base``, and by row what is different in it."""
    path = records / "recipes.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time reads and writes the files again."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in content.items():
        if isinstance(value, Mapping) and key not in (*FREE, "network"):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in flat.items():
        *parts, last = key.split(".")
        inner = content
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return content


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("add", "recipe"))
    parser.add_argument("study")
    parser.add_argument("what", metavar="RUNS|RUN")
    given = parser.parse_args()
    try:
        if given.command == "add":
            names = add(given.study, Path(given.what))
            print(f"{RECORDS}: {len(names)} runs of {given.study} are packed")
        else:
            content = recipe(given.study, given.what)
            print(check_recipe(content, given.what).yaml(), end="")
    except HfgdError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
