"""Tables on stdout: whole in a pipe, and on a terminal of any width without a broken word."""

import functools
import re
import sys

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from rich.table import Table

from conftest import TOYS
from hfgd.checkpoint import save_model
from hfgd.cli.print_table import least_width, show
from hfgd.cli.show import cost_table_9, costs_of_table_9, named_table, rows_table
from hfgd.data.classes import ClassSet
from hfgd.evaluation.report import Report
from hfgd.evaluation.scores import Scores
from hfgd.model import ModelSpec
from hfgd.model.build import build
from hfgd.recipes.spec import Recipe

COUNTED = functools.cache(costs_of_table_9)
LONG = ["a motorway bridge over a river", "road [wet]", "a:car:park", "[red]", "歩行者", "x" * 50]


def report_table():
    matrix = np.arange(36, dtype=np.int64).reshape(6, 6) * 10**9
    return Report(
        "runs/a_run_of_long_name", "city/val", 9, Scores(ClassSet.of(LONG), matrix)
    ).table()


TABLES = {  # how to make it, what may go below, and the narrowest terminal it must fit
    "rows": (lambda: rows_table(None, None), ("data set", "backbone", "what"), 60),
    "rows of a table": (lambda: rows_table("3", None), ("data set", "backbone", "what"), 40),
    "named": (named_table, ("what it is",), 64),
    "costs": (lambda: cost_table_9("9"), ("what",), 64),
    "report": (report_table, (), 90),
}


@pytest.fixture(autouse=True)
def _costs_are_counted_once(monkeypatch):
    monkeypatch.setattr("hfgd.cli.show.costs_of_table_9", COUNTED)


@pytest.fixture
def shown(monkeypatch, capsys):
    """What ``show`` writes to a terminal of a width, or to a pipe, in lines without colours."""

    def write(table, below, width=None):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: width is not None)
        monkeypatch.setenv("COLUMNS", str(width or 80))
        monkeypatch.setenv("TERM", "xterm")
        show(table, below)
        return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()

    return write


def cells(table):
    return [[column.header, *column.cells] for column in table.columns]


@pytest.mark.parametrize("name", TABLES)
def test_a_pipe_gets_every_row_in_one_line(shown, name):
    make, below, _ = TABLES[name]
    lines = shown(make(), below)
    table = make()
    assert lines[0] == table.title
    rows = [list(row) for row in zip(*cells(table), strict=True)]
    assert [re.split(r"\s{2,}", line.strip()) for line in lines[1:]] == [
        [cell for cell in row if cell] for row in rows
    ]
    assert not re.search("[─│┃━╇]", "".join(lines))


@pytest.mark.parametrize("name", TABLES)
def test_no_terminal_breaks_a_word(shown, name):
    make, below, narrowest = TABLES[name]
    words = sorted(word for column in cells(make()) for cell in column for word in cell.split())
    for width in (narrowest, 79, 80, 81, 100, 120, 250):
        if width < narrowest:
            continue
        lines = shown(make(), below, width)
        assert lines[0] == make().title
        found = sorted(w for line in lines[1:] for w in line.split() if w != "·" and "─" not in w)
        assert found == words, width
        assert max(map(cell_len, lines[1:])) <= width


def test_at_its_least_width_a_table_is_still_one(shown):
    table = rows_table("3", None)
    least = least_width(table)
    assert least <= 80
    assert len(shown(table, ("what",), least)[2].split()) > 4  # all columns in one line
    below = shown(rows_table("3", None), ("what",), least - 1)
    assert below[2] == "  what"


def test_a_wide_terminal_shows_all_in_a_line(shown):
    lines = shown(rows_table("3", None), ("what",), 120)
    wanted = "table3/full pascal_context resnet50 identity, full HFGM 48.94 SS not run"
    assert wanted in [" ".join(line.split()) for line in lines]


def test_cells_in_a_pipe_stay_on_their_line(shown):
    table = Table("class", "x")
    table.add_row("two\nlines", "1")
    assert shown(table, ()) == ["class      x", "two lines  1"]


@pytest.mark.parametrize("words", [["recipes", "--table", "3"], ["info", "--table", "9"]])
def test_the_commands_print_plain_text_in_a_pipe(run, monkeypatch, words):
    code, out, _ = run(*words)
    assert code == 0
    _, header, *rows = out.splitlines()
    assert header.split()[0] in ("name", "row")
    assert len(rows) == 4
    assert all(row.startswith(f"table{words[-1]}/") for row in rows)


def test_check_and_eval_show_class_names_whole(run, folder, tmp_path):
    """Also those that rich would take for markup or an emoji."""
    names = ["a motorway bridge over a river " * 4 + "end", "road [wet]", "a:car:park"]
    (folder / "data.yaml").write_text(
        f"classes: {names}\nlabel_map: {dict(zip((10, 20, 30), names, strict=True)) | {99: 'ignore'}}\n"
    )
    for path in (folder / "labels/val").iterdir():  # one row of each class
        Image.fromarray(np.repeat([10, 20, 30, 99], 500).reshape(40, 50).astype("u1")).save(path)
    place = folder.rename(folder.with_name("data [v2] :car:"))
    code, out, err = run("data", "check", place)
    assert code == 0, err
    assert "data [v2] :car:/val: 2 pairs" in out
    for name in names:
        assert re.search(rf"^{re.escape(name)} +25\.000 +2$", out, re.MULTILINE)
    recipe = Recipe(name="toy", model=ModelSpec(backbone=TOYS["test_resnet"], width=16))
    save_model(build(recipe.model, ClassSet.of(names)), tmp_path / "model")
    words = ["eval", tmp_path / "model", "--data", place, "--out", tmp_path / "r", "--workers", 0]
    code, out, err = run(*words)
    assert code == 0, err
    for name in names:
        assert re.search(rf"^{re.escape(name)} .* 1,000$", out, re.MULTILINE)
