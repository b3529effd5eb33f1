"""YAML and JSON of strangers: one sentence, at once, whatever they hold."""

import json
import time

import pytest

from hfgd.data.folder import read_data_yaml
from hfgd.errors import HfgdError, unknown
from hfgd.inference.protocol import find_protocol
from hfgd.parse import parse_json, parse_yaml
from hfgd.recipes import find_recipe, parse_overrides

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
YAML = {
    "a month 13": ("a: 2024-13-45", "month must be in 1..12"),
    "a tag for dates": ("a: !!timestamp x", "does not fit its kind"),
    "a tag for numbers": ("a: !!int x", "does not fit its kind"),
    "a tag for truth": ("a: !!bool maybe", "does not fit its kind"),
    "a tag for bytes": ("a: !!binary gICA", "could not determine a constructor"),
    "a tag that runs": ("!!python/object/apply:os.system [x]", "could not determine a constructor"),
    "a time zone": ("a: 2001-12-14t21:59:43-99:00", "does not fit its kind"),
    "no hexadecimal": ("a: 0x_", "does not fit its kind"),
    "lists in lists": ("[" * 5000 + "]" * 5000, "more than 60 lists inside one another"),
    "mappings in mappings": ("{a: " * 5000, "more than 60 lists inside one another"),
    "an alias of itself": ("&a [*a]", "an alias stands inside of what it names"),
    "a mapping of itself": ("&a {x: *a}", "an alias stands inside of what it names"),
    "aliases of aliases": (ALIASES, "more than 300,000 values"),
    "merges of merges": (MERGES, "more than 300,000 values"),
    "half a surrogate": ('a: "\\ud800"', "which is no letter"),
    "NUL": ('a: "\\0"', "which is no letter"),
    "5,000 digits": ("a: " + "9" * 5000, "a number has 5,000 letters"),
    "a long time": ("a: 1" + ":59" * 100_000, "a number has 300,001 letters"),
    "a list as a key": ("[a]: b", "unhashable"),
    "too long": ("#" * 2_000_001, "2,000,001 letters"),
    "cut off": ("a: [1,", "expected the node content"),
}
READERS = {
    "data.yaml": lambda path: read_data_yaml(path),
    "recipe": lambda path: find_recipe(str(path)),
    "protocol": lambda path: find_protocol(str(path), (32, 32)),
    "--set": lambda path: parse_overrides([f"model={path.read_text()}"]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", YAML)
def test_bad_yaml_is_one_sentence_for_every_reader(reader, case, tmp_path):
    text, words = YAML[case]
    (tmp_path / "x.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(HfgdError) as refused:
        READERS[reader](tmp_path / "x.yaml")
    assert words in str(refused.value)
    assert ("x.yaml" if reader != "--set" else "--set model") in str(refused.value)
    assert "\n" not in str(refused.value).strip()
    assert time.process_time() - began < 10


def test_honest_yaml_is_as_pyyaml_reads_it():
    import yaml

    text = (
        "base: &base {lr: 0.02, crop: [513, 513]}\nlist: [*base, *base]\n<<: *base\n"
        "deep: " + "[" * 50 + "1" + "]" * 50 + "\nwhen: 2024-11-05\nname: 'Straße 🚗'\n"
        "big: 123456789012345678901234567890\nfloat: -1.5e-300\nnone: ~\nyes: true\n"
    )
    assert parse_yaml(text, "x") == yaml.safe_load(text)
    ids = "".join(f"{i}: road\n" for i in range(5_000))
    assert len(parse_yaml(ids, "x")) == 5_000


JSON = {
    "lists in lists": ("[" * 100_000, "more than 60 lists"),
    "61 lists": ("[" * 61 + "]" * 61, "more than 60 lists"),
    "mappings": ('{"a":' * 900 + "1" + "}" * 900, "more than 60 lists"),
    "5,000 digits": ("[" + "9" * 5000 + "]", "no valid JSON"),
    "half a surrogate": ('["\\ud800"]', "which is no letter"),
    "half of one as a key": ('{"\\uDFFF": 1}', "which is no letter"),
    "NUL": ('["a\\u0000b"]', "which is no letter"),
    "cut off": ('[1,\n{"a"', "from line 2 on"),
    "nothing": ("", "from line 1 on"),
}


@pytest.mark.parametrize("case", JSON)
def test_bad_json_is_one_sentence(case):
    text, words = JSON[case]
    with pytest.raises(HfgdError, match=r"^here ") as refused:
        parse_json(text, "here")
    assert words in str(refused.value)


def test_honest_json_is_as_python_reads_it():
    value = {"a": ["\N{GRINNING FACE}", "C:\\ud8ab.png", 1e300, [[None]] * 3], "é": -1}
    text = json.dumps(value)
    assert "\\ud83d\\ude00" in text
    assert parse_json(text, "x") == value


def test_a_recipe_that_is_its_own_base(tmp_path):
    (tmp_path / "a.yaml").write_text(f"base: {tmp_path}/b.yaml\n")
    (tmp_path / "b.yaml").write_text(f"base: {tmp_path}/a.yaml\n")
    with pytest.raises(HfgdError, match=r"a\.yaml' is its own base"):
        find_recipe(str(tmp_path / "a.yaml"))


def test_a_long_name_is_refused_at_once():
    began = time.process_time()
    error = unknown("class", "x" * 200_000, ["y" * 100_000, "z" * 100_000])
    assert time.process_time() - began < 5
    assert "x" * 101 not in str(error)
