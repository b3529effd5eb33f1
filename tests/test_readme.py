"""The README tells the truth: its commands parse, its paths exist, its Python runs."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer

from hfgd.cli.main import app
from hfgd.recipes import find_recipe, parse_overrides

ROOT = Path(__file__).parent.parent
# pages that the site's build makes: git is told to ignore them
MADE = [
    ROOT / line for line in (ROOT / ".gitignore").read_text().split() if line.startswith("docs/")
]
WRITTEN = [p for p in sorted((ROOT / "docs").rglob("*.md")) if not {p, *p.parents} & set(MADE)]
DOCUMENTS = [ROOT / "README.md", *WRITTEN, ROOT / "CONTRIBUTING.md"]


def commands():
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in re.findall(r"```(?:\w*)\n(.*?)```", text, flags=re.DOTALL):
            joined = block.replace("\\\n", " ")
            for line in joined.splitlines():
                started = r"(?:(?:srun|torchrun) .*?)?"
                found = re.match(rf"\s*(?:[A-Z_]+=\S+ )*{started}hfgd (.+)", line)
                if found:
                    yield document.name, re.split(" #| > ", found.group(1))[0].strip()


@pytest.mark.parametrize(("document", "command"), sorted(set(commands())))
def test_every_command_parses(document, command):
    words = shlex.split(command)
    group = typer.main.get_command(app)
    context = group.make_context("hfgd", list(words), resilient_parsing=True)
    verb = group.get_command(context, words[0])
    assert verb is not None, words[0]
    rest = words[1:]
    if hasattr(verb, "commands"):
        verb, rest = verb.commands[rest[0]], rest[1:]
    verb.make_context(words[0], rest)  # raises for an unknown option or a missing argument
    if words[0] in ("train", "info") and rest and not rest[0].startswith("-"):
        find_recipe(rest[0])


def test_every_setting_in_the_documents_is_one():
    """`key=value` in the text is a key of a recipe and a value that it takes."""
    recipe = find_recipe("hfgd_mobilenetv2")
    found = 0
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for setting in re.findall(r"`(?:--set )?([a-z_]+\.[a-z_.]+=[^`…]+)`", text):
            recipe.with_(**parse_overrides(setting.split(" --set ")))
            found += 1
    assert found > 10


def test_paths_in_documents_exist():
    """In a clone, or in the site."""
    missing = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            path = document.parent / target
            if not path.exists() and path not in MADE:
                missing.append(f"{document.name}: {target}")
    assert not missing


def test_files_named_in_the_paper_page_exist():
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`((?:model|recipes|training|data)/[\w/]+\.py)`", text)):
        assert (ROOT / "src" / "hfgd" / name).is_file(), name
    for name in set(re.findall(r"`(test_\w+\.py)`", text)):
        assert (ROOT / "tests" / name).is_file(), name


def test_the_counts_in_the_paper_page_are_the_counts():
    from hfgd.cli.show import costs_of_table_9

    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    for cost in costs_of_table_9().values():
        assert f"{cost.macs / 1e9:.2f}" in text


def test_the_page_of_what_is_read_is_the_tests_own_list():
    script = ROOT / "tools" / "situations.py"
    if not script.is_file():
        pytest.skip("the wheel's tests have no tools/")
    module = runpy.run_path(str(script))
    assert len(module["situations"]()) > 30
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert text == module["page"](), "python tools/situations.py writes the page anew"
