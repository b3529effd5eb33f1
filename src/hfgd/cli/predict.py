"""``hfgd predict``."""

import os
import sys
from typing import Annotated, Literal

import typer

from hfgd.cli.options import Code
from hfgd.errors import HfgdError
from hfgd.text import counted, one_line


def predict(
    model: Annotated[
        str | None,
        typer.Argument(help="A run or model folder, an exported file, hf://user/name."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders, films, zip and tar archives, a .txt of paths, s3://, gs://, https://."
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Where labels/ and overlays/ go; a folder, or s3://….")
    ] = None,
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Of the overlay's colours.")] = 0.5,
    protocol: Annotated[str, typer.Option(help="ss, mf, slide, or a YAML file.")] = "ss",
    server: Annotated[
        str | None,
        typer.Option(help="Also write what a test server takes: cityscapes or ade20k."),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "auto"],
        typer.Option(help="auto: bf16 where the hardware multiplies it, fp32 elsewhere."),
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; the GPU where there is one.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="i/n: only the i-th of n shares; by itself under torchrun and srun."),
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Processes on this machine: GPUs, or shares of the CPU.")
    ] = 1,
    tile: Annotated[
        int | None,
        typer.Option(min=256, help="Label TIFFs by tiles of about this side, as large ones are."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Of a film, label every N-th frame.")] = 1,
    overlays: Annotated[
        bool, typer.Option(help="Overlays take more room and time to write than label maps.")
    ] = True,
    confidence: Annotated[
        bool,
        typer.Option("--confidence", help="Also write confidence/: 255 times the probability."),
    ] = False,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Pixels of which the model is less sure are void.")
    ] = 0.0,
    merge: Annotated[
        str | None,
        typer.Option(help="Only merge the shares' manifests and failures in this --out."),
    ] = None,
    code: Code = None,
) -> None:
    """Label images: palette PNGs and overlays.

    In the folder structure of the input.
    """
    from hfgd.predict.shards import own_device, own_shard, parse_shard, run_shards

    if merge is not None:
        if model is not None:
            raise HfgdError("--merge takes the folder with the results, and nothing else.")
        _merged(merge)
        return
    if model is None or not inputs or out is None:
        raise HfgdError(
            "predict needs a model, images and --out: hfgd predict MODEL INPUT --out OUT."
        )
    share = own_shard() if shard is None else parse_shard(shard)
    if devices > 1 and share.count == 1 and "RANK" not in os.environ:
        codes = run_shards(sys.argv[1:], devices)
        if all(code in (0, 1) for code in codes):
            _merged(out)
        if any(codes):
            raise typer.Exit(max(codes))
        return
    from hfgd.inference.labeller import InferenceConfig
    from hfgd.predict import ConfidenceConfig, predict_files
    from hfgd.predict.large_files import LargeFileConfig

    how = InferenceConfig(protocol, None, own_device(device, model), precision, code=code)
    sure = ConfidenceConfig(confidence, min_confidence) if confidence or min_confidence else None
    outcome = predict_files(
        model,
        inputs,
        out,
        how,
        opacity,
        server,
        share,
        LargeFileConfig(tile, every, overlays),
        sure,
    )
    before = f" ({outcome.before} had been before)" if outcome.before else ""
    which = f"shard {share}: " if share.count > 1 else ""
    kinds = ("labels", "overlays") if overlays else ("labels",)
    places = ", ".join(f"{out.rstrip('/')}/{kind}" for kind in kinds)
    print(f"{which}{counted(outcome.done, 'image')} labelled{before}: {places}")
    for warning in outcome.warnings:
        print(f"{which}warning: {warning}", file=sys.stderr)
    if outcome.failed:
        print(f"{which}{len(outcome.failed)} could not be labelled:", file=sys.stderr)
        for reason in outcome.failed:
            print(f"  {one_line(reason)}", file=sys.stderr)
        raise typer.Exit(1)


def _merged(out: str) -> None:
    from hfgd.predict import merge

    found = merge(out)
    print(f"{found.labels} label maps: {found.manifest}")
    if found.failed:
        print(f"{found.failed} could not be labelled: {out}/failed.csv", file=sys.stderr)
    if found.missing:
        print(
            f"not ended: {', '.join(found.missing)}; repeat the command with --shard "
            f"{found.missing[0]}, which does what is missing, and merge again.",
            file=sys.stderr,
        )
    if found.failed or found.missing:
        raise typer.Exit(1)
