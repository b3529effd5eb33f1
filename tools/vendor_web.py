"""Fetch onnxruntime-web with npm into src/hfgd/export/web/runtime, for ``hfgd export --format html``.

    python tools/vendor_web.py [VERSION]

Takes the smallest build that runs our models: WebAssembly alone (no WebGPU, WebGL, WebNN). Of the
same files it makes the same bytes.
"""

import gzip
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

VERSION = "1.30.0"
TARGET = Path(__file__).parent.parent / "src/hfgd/export/web/runtime"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
LICENCE = """MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""  # the package of npm names its licence (MIT) and holds no text of it


def main(version: str = VERSION) -> None:
    """Write the four files."""
    with TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["npm", "pack", f"onnxruntime-web@{version}", "--json"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        told = json.loads(packed.stdout)[0]
        with tarfile.open(Path(folder) / told["filename"]) as archive:
            script, wasm, about = (
                archive.extractfile(f"package/{name}").read()
                for name in (f"dist/{SCRIPT}", f"dist/{WASM}", "package.json")
            )
    licence = json.loads(about)["license"]
    if licence != "MIT":
        raise SystemExit(f"the licence is now {licence}: look at it, and mend LICENCE in here")
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / SCRIPT).write_bytes(script)
    (TARGET / f"{WASM}.gz").write_bytes(gzip.compress(wasm, 9, mtime=0))
    (TARGET / "LICENSE").write_text(LICENCE, encoding="utf-8")
    note = {
        "name": "onnxruntime-web",
        "version": told["version"],
        "licence": licence,
        "source": "https://github.com/microsoft/onnxruntime",
        "integrity": told["integrity"],
        "files": [f"dist/{SCRIPT}", f"dist/{WASM}"],
    }
    (TARGET / "VERSION.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    print(f"{TARGET}: onnxruntime-web {told['version']}, {len(wasm) / 1e6:.1f} MB of wasm")


if __name__ == "__main__":
    main(*sys.argv[1:])
