"""Write docs/formats.md from the tests: each `situation` mark of a test is a row.

python tools/situations.py [--check]

The marks are read from the source of the tests, which are not run. `--check` writes nothing and ends
with exit code 1 where the page is not what the tests list.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "formats.md"
HEAD = """# What is read, and what is refused

Each row is a test (`@pytest.mark.situation`); `python tools/situations.py` writes the page from them.
How to import annotations: [import](import.md). How labels and images are read: [data](data.md).

| format or part | situation | what happens |
| --- | --- | --- |
"""


def situations() -> list[tuple[str, str, str]]:
    """Format, situation and outcome of every mark, sorted."""
    rows = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("situation"):
                        what, when, outcome = (ast.literal_eval(word) for word in mark.args)
                        rows.add((what, when, outcome))
    return sorted(rows)


def page() -> str:
    """The whole page."""
    rows = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in situations())
    return HEAD + "".join(f"| {row} |\n" for row in rows)


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page() else 1)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
