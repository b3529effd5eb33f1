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
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="HFGD_API_KEY", help="What each request must bring; best in HFGD_API_KEY."
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A page elsewhere that may ask, such as https://example.org; repeatable."
        ),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 20_000_000,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of an image.")] = 25_000_000,
    max_memory: Annotated[
        int | None,
        typer.Option(
            min=1, help="MB for the images in work; 4000, or half of the machine's if that is less."
        ),
    ] = None,
    formats: Annotated[str, typer.Option(help="As Pillow names them.")] = "JPEG,PNG,WEBP,BMP",
    queue: Annotated[int, typer.Option(min=1, help="Requests in hand; 429 for those beyond.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.1, help="For a request.")] = 60.0,
    drain: Annotated[
        int, typer.Option(min=0, help="Seconds for requests in hand when it is stopped.")
    ] = 10,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1.")] = None,
    code: Code = None,
) -> None:
    """Serve a model over HTTP.

    POST /predict, a page at /, /healthz, /metrics, /docs.
    """
    try:
        from hfgd.serve.run import Serving, run
    except ImportError as error:
        raise HfgdError(f"serving needs {error.name}; pip install 'hfgd[serve]'.") from error
    from hfgd.data.images import FORMATS
    from hfgd.serve.access import Access
    from hfgd.serve.limits import Limits, usual_memory

    names = tuple(name.strip().upper() for name in formats.split(",") if name.strip())
    known = (*FORMATS, "GIF")
    for name in names:
        if name not in known:
            raise HfgdError(f"--formats: '{name}' is not served; use some of {','.join(known)}.")
    memory = 10**6 * max_memory if max_memory else usual_memory(workers)
    limits = Limits(max_bytes, max_pixels, names, queue, seconds, memory, drain)
    origins = tuple(origin.removesuffix("/") for origin in allow_origin or ())
    run(Serving(model, limits, Access(host, origins, api_key), port, workers, device, code))
