"""Label maps and a manifest with Ray Data: on this machine, or on the cluster it is started on.

    python examples/ray_predict.py MODEL INPUT --out OUT [--workers 2] [--gpus]

INPUT: a folder, an archive, an address (whatever 'hfgd predict' takes), or a .parquet file or folder
with a column 'path', and a column 'bytes' where the images are inside. OUT must be seen by all
machines: a folder that they share, or s3://…. It gets labels/NAME.png, manifest.parquet and
failed.csv, as from 'hfgd predict'. Called again it does what is missing.
"""

import argparse

import ray

from hfgd.inference.labeller import InferenceConfig
from hfgd.predict import find_images
from hfgd.predict.storage import open_place
from hfgd.ray import RayLabeller, Save, begin, end, target_of


def read(source, out, blocks):
    """The images that have no label map yet, as a dataset of rows."""
    done = {name.removeprefix("labels/") for name in open_place(out).names("labels")}
    if source.rstrip("/").endswith(".parquet"):
        rows = ray.data.read_parquet(source, override_num_blocks=blocks)
        return rows.filter(lambda row: target_of(row["path"]) not in done), len(done)
    items = [item for item in find_images([source]) if item.target not in done]
    rows = [{"path": str(item.source), "target": item.target} for item in items]
    return (ray.data.from_items(rows) if rows else None), len(done)


def main():
    """From images to labels and manifest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("input")
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="images handed over at once")
    parser.add_argument("--gpus", action="store_true", help="a GPU for each worker")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    given = parser.parse_args()

    ray.init(ignore_reinit_error=True, include_dashboard=False)
    begin(given.out, given.model, InferenceConfig(precision=given.precision))
    rows, before = read(given.input, given.out, 8 * given.workers)
    if rows is None:
        print(f"all {before} images had been labelled before")
        return
    # Ray Data starts a worker that dies again, and its batch is labelled once more
    labelled = rows.map_batches(
        RayLabeller,
        fn_constructor_args=[given.model],
        fn_constructor_kwargs={"precision": given.precision},
        batch_size=given.batch,
        compute=ray.data.ActorPoolStrategy(size=given.workers),
        num_gpus=1 if given.gpus else None,
        num_cpus=None if given.gpus else 1,
    )
    saved = labelled.map_batches(
        Save,
        fn_constructor_args=[given.out],
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0.1,
    )
    done = saved.take_all()  # names alone: the maps are where they belong
    failed = [row["error"] for row in done if row["error"]]
    merged = end(given.out, len(done) + before, len(failed))
    print(
        f"{len(done) - len(failed)} images labelled ({before} had been before): {merged.manifest}"
    )
    for reason in failed:
        print(f"  {reason}")


if __name__ == "__main__":
    main()
