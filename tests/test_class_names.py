"""Class names that YAML reads as something else are refused with the reason."""

import pytest

from hfgd.data.folder import read_data_yaml
from hfgd.data.formats import find_format
from hfgd.data.formats.tree import Tree
from hfgd.errors import HfgdError


@pytest.mark.situation(
    "data.yaml",
    "class names that YAML reads as a boolean, number, date or null",
    "refused with the reason",
)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "classes: [no, yes]",
            "classes: YAML reads name 1 as the truth value that no, off or false",
        ),
        (
            "classes: [a, on]",
            "name 2 as the truth value that yes, on or true stand for; write it in",
        ),
        ("classes: [a, null]", "name 2 as nothing, which null, ~ or an empty entry stand for"),
        ("classes: [a, ]\ncolours: {off: [1, 2, 3]}", "colours: YAML reads name 1 as the truth"),
        ("classes: [2024-01-31, a]", "name 1 as the date 2024-01-31; write it in quotes"),
        ("classes: [a, 7]", "name 2 as the number 7; write it in quotes, as in '7'"),
        ("classes: [a, b]\nlabel_map: {0: a, 1: no}", "label_map: YAML reads name 2 as the truth"),
    ],
)
def test_a_name_that_yaml_reads_as_something_else(tmp_path, text, said):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(HfgdError) as error:
        read_data_yaml(tmp_path / "data.yaml")
    assert said in str(error.value)
    assert str(tmp_path / "data.yaml") in str(error.value)


def test_names_in_quotes_are_read(tmp_path):
    (tmp_path / "data.yaml").write_text("classes: ['no', 'yes', '7', '2024-01-31', 'null']")
    assert read_data_yaml(tmp_path / "data.yaml").classes == [
        "no",
        "yes",
        "7",
        "2024-01-31",
        "null",
    ]


def test_an_ultralytics_file_is_no_other(tmp_path):
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [no, yes]\n")
    tree = Tree(tmp_path)
    with pytest.raises(HfgdError, match="names: YAML reads name 1 as the truth value that no, off"):
        find_format("ultralytics", tree)[0].read(tree)
