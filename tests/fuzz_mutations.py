"""Mutations of small valid files, drawn by a seed: bytes, JSON, YAML, text, headers, kinds of files."""

import copy
import io
import json
import os
import socket
import struct
import zipfile
import zlib

import yaml

ODD_VALUES = [
    None, True, False, 0, -1, 1, 255, 256, 65536, 2**31, 2**32, 2**63, -(2**63), 10**30, 0.5, -0.0,
    1e308, float("nan"), float("inf"), "", " ", "a", "0", "-1", "1e9", "\0", "\ud800", "a\nb", "=1+1",
    "../../evil", "/etc/passwd", "{1..3}", "é" * 300, "x" * 5000, [], {}, [[]], [None], {"": 0},
    [1, 2], {"a": [1]}, "@DIGITS@", "@DEEP@", "@WIDE@",
]  # fmt: skip
ODD_NAMES = [
    b"\xff\xfe.png", b"cr\r.png", b"nl\n.png", b"n" * 251 + b".png", b"-rf.png", b"=cmd.png",
    b"frames{1..3}.png", b"a.jpg.png", b" .png", b"\xe2\x80\xae.png", b"x.PNG", b".hidden.png",
    b"con.png", b"a'b\"c.png", b"%s%n.png", b"[red].png", b"shot0.jpg",
]  # fmt: skip
ODD_YAML = [
    "a: &a [*a]\n", "x: !!python/object/apply:os.system [touch evil]\n", "d: 2024-13-45\n",
    "t: !!timestamp x\n", "b: !!bool maybe\n", "<<: [a, b]\n", "? [a]\n: b\n", "\t- a\n", "---\n",
    "- a\n", "k: '\\0'\n", 's: "\\ud800"\n', "n: .nan\n", "o: 0o9\n", "h: 0x_\n", "i: 1:99\n",
    "[" * 3000 + "\n", "z: " + "9" * 5000 + "\n", "%TAG ! x:\n---\n", "base: recipe.yaml\n",
]  # fmt: skip
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
INTEGERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 200_000]


def mutate_bytes(rng, data):
    """A few flips, cuts, repeats and odd integers."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if not data:
            return bytes(rng.randbytes(rng.randrange(64)))
        at = rng.randrange(len(data))
        if rng.random() < 0.3:
            at = min(at, rng.randrange(64))  # headers
        how = rng.randrange(8)
        if how == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at] = rng.randrange(256)
        elif how == 2:
            del data[at : at + rng.choice([1, 4, 100, len(data)])]
        elif how == 3:
            data[at:at] = rng.randbytes(rng.choice([1, 4, 64]))
        elif how == 4:
            data[at:at] = data[at : at + rng.choice([4, 64, 1000])]
        elif how == 5:
            packed = struct.pack(rng.choice(["<I", ">I"]), rng.choice(INTEGERS))
            data[at : at + 4] = packed
        elif how == 6:
            end = min(len(data), at + rng.choice([4, 64]))
            data[at:end] = bytes(end - at)
        else:
            data = data[:at]
    return bytes(data)


def mutate_png(rng, data):
    """A PNG that claims another size, mode or number of bits, with its checksum right."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
        return mutate_bytes(rng, data)
    header = bytearray(data[16:29])
    which = rng.randrange(3)
    if which == 0:
        header[:4] = struct.pack(">I", rng.choice([*INTEGERS, 10_000, 13_000]))
    if which in (0, 1):
        header[4:8] = struct.pack(">I", rng.choice([*INTEGERS, 10_000, 13_000]))
    else:
        header[8] = rng.choice([1, 2, 4, 8, 16, 3])
        header[9] = rng.choice([0, 2, 3, 4, 6, 5])
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return data[:16] + bytes(header) + checksum + data[33:]


def mutate_tree(rng, value):
    """Plain values with a node replaced, removed, repeated or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(value))[:5000]
        if not places:
            return rng.choice(ODD_VALUES)
        box, key = rng.choice(places)
        how = rng.randrange(6)
        if how == 0 and isinstance(box, dict):
            box[rng.choice(["id", "size", "x", "", "classes", "0", "é"])] = box.pop(key)
        elif how == 1:
            del box[key]
        elif how == 2 and isinstance(box, list):
            box.extend([copy.deepcopy(box[key])] * rng.choice([1, 3, 50]))
        elif how == 3:
            box[key] = [box[key]]
        elif how == 4:
            other, name = rng.choice(places)
            try:
                box[key] = copy.deepcopy(other[name])
            except (KeyError, IndexError):
                box[key] = None
        else:
            box[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return value


def _places(value):
    rest = [value] if isinstance(value, dict | list) else []
    while rest:
        box = rest.pop()
        keys = list(box) if isinstance(box, dict) else range(len(box))
        for key in keys:
            yield box, key
            if isinstance(box[key], dict | list):
                rest.append(box[key])


def _expanded(text):
    for mark, content in (
        ("@DIGITS@", "9" * 5000),
        ("@DEEP@", "[" * 3000 + "]" * 3000),
        ("@WIDE@", "[" + "0," * 50_000 + "0]"),
    ):
        for quoted in (f'"{mark}"', f"'{mark}'", mark):
            text = text.replace(quoted, content)
    return text


def mutate_json(rng, data):
    """JSON: its values, seldom its bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    try:
        value = mutate_tree(rng, json.loads(data))
    except ValueError:
        return mutate_bytes(rng, data)
    return _expanded(json.dumps(value)).encode()


def mutate_yaml(rng, data):
    """YAML: its values, lines that are odd in YAML, aliases of aliases, its bytes."""
    how = rng.random()
    if how < 0.15:
        return mutate_bytes(rng, data)
    if how < 0.4:
        lines = data.decode(errors="replace").splitlines(keepends=True)
        lines.insert(rng.randrange(len(lines) + 1), rng.choice([*ODD_YAML, BOMB]))
        return "".join(lines).encode(errors="surrogatepass")
    try:
        value = mutate_tree(rng, yaml.safe_load(data))
    except (yaml.YAMLError, RecursionError):  # mutated before
        return mutate_bytes(rng, data)
    return _expanded(yaml.safe_dump(value, sort_keys=False)).encode(errors="surrogatepass")


def mutate_text(rng, data):
    """Lines and words of csv and txt files."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    lines = data.decode(errors="replace").split("\n")
    at = rng.randrange(len(lines))
    words = lines[at].replace(",", " , ").split(" ")
    word = rng.choice(ODD_VALUES)
    words[rng.randrange(len(words))] = _expanded(str(word))
    lines[at] = " ".join(words).replace(" , ", ",")
    if rng.random() < 0.2:
        lines += [lines[at]] * rng.choice([1, 3, 1000])
    text = "\n".join(lines)
    return text.encode(errors=rng.choice(["surrogatepass", "backslashreplace"]))


def mutate_zip(rng, data):
    """An archive: a member that unpacks to much, or that lies about its size; or its bytes."""
    if rng.random() < 0.6:
        return mutate_bytes(rng, data)
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        name = rng.choice(
            ["big.png", "../up.png", "/abs.png", "a/b.png", "labels.json", "x\\y.png"]
        )
        archive.writestr(name, bytes(rng.choice([0, 1000, 60_000_000])))
    packed = file.getvalue()
    if rng.random() < 0.5:
        at = packed.rfind(b"PK\x01\x02")
        lie = struct.pack("<I", rng.choice([1, 0x7FFFFFFF]))
        packed = packed[: at + 24] + lie + packed[at + 28 :]
    return packed


BY_SUFFIX = {
    ".json": mutate_json,
    ".yaml": mutate_yaml,
    ".yml": mutate_yaml,
    ".csv": mutate_text,
    ".txt": mutate_text,
    ".png": mutate_png,
    ".zip": mutate_zip,
}


def mutate_file(rng, path):
    """Change what is in a file, as its suffix suggests, or as bytes."""
    by_kind = BY_SUFFIX.get(path.suffix.lower(), mutate_bytes)
    mutate = by_kind if rng.random() < 0.7 else mutate_bytes
    data = path.read_bytes()
    path.unlink()  # a link's target stays as it is
    path.write_bytes(mutate(rng, data))


def replace_by_special(rng, path):
    """Put another kind of file into a file's place."""
    path.unlink()
    how = rng.randrange(8)
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.symlink_to(path.name)
    elif how == 2:
        path.symlink_to("nowhere")
    elif how == 3:
        path.mkdir()
    elif how == 4:
        path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/dev/full"]))
    elif how == 5:
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        except OSError:
            path.touch()  # a path too long for a socket
    elif how == 6:
        path.symlink_to("..")
    else:
        path.touch()


def rename(rng, path):
    """Give a file an odd name."""
    target = os.path.join(os.fsencode(path.parent), rng.choice(ODD_NAMES))
    try:
        os.rename(path, target)
    except OSError:
        path.unlink()


def mutate_folder(rng, folder):
    """Change one to three of the files below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    # what describes the others is changed as often as all the others together
    telling = [p for p in files if p.suffix not in (".png", ".jpg", ".webp", ".bmp", ".tif")]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        pool = telling if telling and rng.random() < 0.6 else files
        pool = [p for p in pool if p.is_file()]
        if not pool:
            return
        how = rng.random()
        change = mutate_file if how < 0.8 else replace_by_special if how < 0.9 else rename
        change(rng, rng.choice(pool))
