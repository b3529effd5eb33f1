"""One HTML file: the model, the runtime and a page around them, for a browser without a network.

The page's parts lie in ``web/`` as real files; a service shows the same page without a model in it.
"""

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hfgd.errors import HfgdError
from hfgd.export.metadata import Facts, Input
from hfgd.export.runtime import read_facts
from hfgd.files import made, write_whole
from hfgd.types import Size

if TYPE_CHECKING:
    from hfgd.export.check import Checked
    from hfgd.export.int8 import CalibrationImages
    from hfgd.model.network import Network

WEB = files("hfgd.export") / "web"
RUNTIME, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm.gz"
# An image is scaled down to what WebAssembly's 4 GB hold: all logits of the image's size at once.
LOGIT_BYTES, MOST_PIXELS = 512_000_000, 2_000_000
ONE_PAGE = 300_000_000  # bytes of a model; browsers end at texts of about 500 million characters


def export_html(
    network: "Network",
    path: str | Path,
    *,
    size: Size | None = None,
    logits: bool = False,
    input: Input = "uint8",
    int8: "CalibrationImages | None" = None,
) -> "list[Checked]":
    """Write ``path``, one page that labels images in a browser, offline; returns how it was checked.

    In it is the ONNX file that ``export_model`` makes, checks and refuses. Raises HfgdError as that
    does, for a model that is too large for one page, and for any size, logits and input but these.
    """
    from hfgd.export.write import export_model

    path = Path(path)
    if size is not None or logits or input != "uint8":
        raise HfgdError(
            "a page takes images of any size and shows labels alone: leave --size, --logits and "
            "--input out."
        )
    if path.suffix != ".html":
        raise HfgdError(f"'{path}' should end in .html, so that a browser opens it.")
    with made(path.parent):
        with TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
            model = Path(folder) / "model.onnx"
            checked = export_model(network, model, int8=int8)
            page = page_of(model)
        write_whole(path, lambda part: part.write_text(page, encoding="utf-8"))
    return checked


def page_of(model: Path) -> str:
    """The page with an ONNX file of ``export_model`` in it. Raises HfgdError where it is too large."""
    size = model.stat().st_size
    if size > ONE_PAGE or model.with_name(f"{model.name}.data").exists():
        raise HfgdError(
            "the model is too large for one page: browsers take about "
            f"{ONE_PAGE // 1_000_000} MB; use 'hfgd serve', or a smaller backbone."
        )
    facts = read_facts(model)
    packed = gzip.compress(model.read_bytes(), 6, mtime=0)
    payload = {
        "worker": _classic(_text(f"runtime/{RUNTIME}")) + _text("worker.js"),
        "wasm": _base64(_bytes(f"runtime/{WASM}")),
        "model": _base64(packed),
    }
    told = {
        **shown(facts, "In this page, on this device."),
        "smallest": facts.smallest,
        "fill": [round(255 * mean) for mean in facts.mean],
        "maxPixels": most_pixels(facts),
        "wasmBytes": len(gzip.decompress(_bytes(f"runtime/{WASM}"))),
        "modelBytes": size,
    }
    licence = html.escape(_text("runtime/LICENSE"))
    version = json.loads(_text("runtime/VERSION.json"))["version"]
    return assemble(
        title=facts.name,
        promise="Labels every pixel of an image, on this device: no image leaves it.",
        limit=f"Images above {most_pixels(facts) / 1e6:.1f} megapixels are scaled down first.",
        facts=told,
        policy="script-src {script} blob: 'wasm-unsafe-eval'; worker-src blob:",
        licence=f"<p>The model is run by onnxruntime-web {version}:</p><pre>{licence}</pre>",
        payload=payload,
    )


def assemble(
    *,
    title: str,
    promise: str,
    limit: str,
    facts: Mapping[str, Any],
    policy: str,
    licence: str = "",
    payload: Mapping[str, str] | None = None,
) -> str:
    """The page from its parts. ``policy``: what it may do beyond drawing itself; by the content
    security policy the browser refuses everything else, a request to any other place among it.
    """
    script = _text("png.js") + _text("page.js").removeprefix('"use strict";\n')
    style = _text("page.css")
    rule = f"default-src 'none'; style-src {_hash(style)}; img-src data: blob:; "
    blocks = [
        f'<script type="text/plain" id="{name}">{_inert(text)}</script>'
        for name, text in (payload or {}).items()
    ]
    values = {
        "policy": rule + policy.format(script=_hash(script)),
        "title": html.escape(title),
        "promise": html.escape(promise),
        "limit": html.escape(limit),
        "style": style,
        "facts": json.dumps(facts).replace("<", "\\u003c"),
        "licence": licence,
        "payload": "\n".join(blocks),
        "script": script,
    }
    pieces = _text("page.html").split("{{")  # once through: a value may hold what it likes
    page = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        page += [values[name], rest]
    return "".join(page)


def shown(facts: Facts, where: str) -> dict[str, Any]:
    """What the page shows of a model; ``where`` it runs."""
    about = {
        "Model": facts.name,
        "Runs": where,
        "hfgd": facts.version,
        "Licence of the code": facts.licence_of_code,
        "Licence of the weights": facts.licence_of_weights,
        "Licence of the backbone's pre-trained weights": facts.licence_of_backbone,
    }
    return {"classes": facts.classes, "palette": facts.palette, "about": about}


def most_pixels(facts: Facts) -> int:
    """How large an image the page gives to the model, in pixels."""
    return min(MOST_PIXELS, LOGIT_BYTES // (4 * len(facts.classes)))


def _classic(module: str) -> str:
    """A module as a plain script that sets ``ort``: on a page from disk no worker may be a module."""
    body, _, names = module.partition("\n//# sourceMappingURL")[0].rpartition("export{")
    pairs = (pair.split(" as ") for pair in names.strip().removesuffix("};").split(","))
    exported = ",".join(f'"{name}":{local}' for local, name in pairs)
    return body.replace("import.meta.url", "self.location.href") + f"self.ort={{{exported}}};\n"


def _bytes(name: str) -> bytes:
    return WEB.joinpath(name).read_bytes()


def _text(name: str) -> str:
    return _bytes(name).decode("utf-8")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _hash(text: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _inert(text: str) -> str:
    """A text that cannot end the script element it stands in."""
    if "</script" in text.lower() or "<!--" in text:
        raise AssertionError("a part of the page would end its own element")
    return text
