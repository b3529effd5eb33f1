"""``hfgd serve``."""

from typing import Annotated

import typer

from hfgd.cli.options import Code
from hfgd.errors import HfgdError


def serve(
    model: Annotated[
        str, typer.Argument(help="A run or model folder, an exported file, hf://user/name.")
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen on; this machine alone by default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with the model.")] = 1,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 20_000_000,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of an image.")] = 25_000_000,
    formats: Annotated[str, typer.Option(help="As Pillow names them.")] = "JPEG,PNG,WEBP,BMP",
    queue: Annotated[int, typer.Option(min=1, help="Requests in hand; 429 for those beyond.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.1, help="For a request.")] = 60.0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1.")] = None,
    code: Code = None,
) -> None:
    """Serve a model over HTTP.

    POST /predict, a page at /, /healthz, /metrics, /docs.
    """
    try:
        from hfgd.serve.app import run
    except ImportError as error:
        raise HfgdError(f"serving needs {error.name}; pip install 'hfgd[serve]'.") from error
    from hfgd.data.images import FORMATS
    from hfgd.serve.limits import Limits

    names = tuple(name.strip().upper() for name in formats.split(",") if name.strip())
    known = (*FORMATS, "GIF")
    for name in names:
        if name not in known:
            raise HfgdError(f"--formats: '{name}' is not served; use some of {','.join(known)}.")
    limits = Limits(max_bytes, max_pixels, names, queue, seconds)
    run(model, limits, host, port, workers, device, code)
