"""The options of `revgraph concepts`."""

import argparse
import re
from typing import Any

from revgraph.cli.options import (
    add_command,
    add_loading,
    add_method,
    add_model,
    add_model_file,
    add_reading,
    count,
    examples,
    png,
    words,
)

SAMPLES = "directory of images or TFRecord files, .npy, .npz, .h5 or .tfrecord file"


def add_concepts(commands: Any) -> None:
    """Adds `revgraph concepts` with its own commands."""
    what = "what the channels of a layer stand for: collect, show, graph, clusters"
    group = commands.add_parser(
        "concepts", help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=examples(
            "revgraph concepts collect model.keras test.npz --layers conv3 --out concepts.h5",
            "revgraph concepts show concepts.h5 --layer conv3",
            "revgraph concepts collect --help",
        ), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    inner = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_collect, _add_show, _add_graph, _add_clusters):
        add(inner)


def _add_collect(commands):
    command = add_command(
        commands, "collect", "concepts.collect",
        "find the samples on which each channel is most relevant and most active",
        "revgraph concepts collect model.keras images/ --layers conv2,conv3 --size 64x64 --scale 1/255 --out c.h5",
        "revgraph concepts collect model.keras test.npz --layers conv3 --target label --out concepts.h5 --resume",
    )  # fmt: skip
    add_model(command)
    command.add_argument("data", metavar="DATA", help=SAMPLES)
    command.add_argument("--layers", metavar="NAMES", type=words, required=True, help="layers, separated by commas")
    command.add_argument("--out", metavar="FILE", required=True, help="file to write: FILE.h5 or NAME.zarr")
    command.add_argument(
        "--target", default="top1",
        help="what to explain: top1 for the largest output, label for that of the dataset, a number or a name of a "
        "class (%(default)s)",
    )  # fmt: skip
    command.add_argument("--output", metavar="NAME", help="which output, if the model has several")
    command.add_argument("--samples", metavar="N", type=count, default=40, help="samples of each channel (%(default)s)")
    command.add_argument(
        "--over", choices=["sum", "max"], default="sum", help="how positions become one value (%(default)s)"
    )
    command.add_argument("--shares", action="store_true", help="divide by the sum of absolute values of all channels")
    command.add_argument("--batch-size", metavar="N", type=count, help="samples computed at once (32)")
    command.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    command.add_argument("--overwrite", action="store_true", help="replace an output, or begin an interrupted run anew")
    command.add_argument("--stop-on-failure", action="store_true", help="end at the first sample that fails")
    _add_data(command)


def _add_show(commands):
    command = add_command(
        commands, "show", "concepts.show", "show what was collected, and draw the samples of channels",
        "revgraph concepts show concepts.h5",
        "revgraph concepts show concepts.h5 --layer conv3 --channels 3,12",
        "revgraph concepts show concepts.h5 --layer conv3 --model model.keras --data images/ --size 64x64 "
        "--scale 1/255 --out conv3.png",
    )  # fmt: skip
    command.add_argument("file", metavar="FILE", help="file of `revgraph concepts collect`")
    command.add_argument("--layer", metavar="NAME", help="layer that was collected")
    command.add_argument(
        "--channels", metavar="NUMBERS", type=numbers, help="channels, separated by commas (those with most relevance)"
    )
    command.add_argument(
        "--by", choices=["relevance", "activation"], default="relevance", help="how samples are ranked (%(default)s)"
    )
    command.add_argument("--of-class", metavar="N", type=int, help="only samples for which this class was explained")
    command.add_argument("--samples", metavar="N", type=count, help="samples of each channel (8)")
    group = command.add_argument_group("drawing")
    group.add_argument("--out", metavar="FILE.png", type=png, help="picture to write; it needs --model and --data")
    group.add_argument("--model", metavar="MODEL", help="model that was collected")
    group.add_argument("--data", metavar="DATA", help="dataset that was collected")
    group.add_argument("--whole", action="store_true", help="show whole samples, and the channel at all positions")
    group.add_argument("--heatmaps", action="store_true", help="add a row of heat maps below each row")
    group.add_argument("--overwrite", action="store_true", help="replace a picture that exists")
    add_method(command, None, "that with which FILE was collected")
    add_loading(command)
    _add_data(command)


def _add_graph(commands):
    command = add_command(
        commands, "graph", "concepts.graph", "show which concepts of lower layers feed which concepts of higher ones",
        "revgraph concepts graph model.keras cat.png --layers conv2,conv3 --widths 4,2 --out graph.png",
    )  # fmt: skip
    add_model_file(command)
    command.add_argument("inputs", metavar="IMAGE", nargs=1, help="image, .npy or .npz of one sample")
    command.add_argument("--layers", metavar="NAMES", type=words, required=True, help="layers, separated by commas")
    command.add_argument(
        "--widths", metavar="NUMBERS", type=numbers, default=[3],
        help="channels that feed one channel: one number, or one for each step down from the prediction (3)",
    )  # fmt: skip
    command.add_argument(
        "--concepts", metavar="NUMBERS", type=numbers,
        help="channels of the highest layer with which the graph begins (those of largest relevance)",
    )  # fmt: skip
    command.add_argument("--around", action="store_true", help="count relevance that passes around a concept, too")
    command.add_argument("--target", default="top1", help="what to explain: top1, a number or a name of a class")
    command.add_argument("--output", metavar="NAME", help="which output, if the model has several")
    command.add_argument("--out", metavar="FILE.png", type=png, help="picture to write")
    command.add_argument("--overwrite", action="store_true", help="replace a picture that exists")
    add_method(command)
    add_loading(command)
    add_reading(command)


def _add_clusters(commands):
    command = add_command(
        commands, "clusters", "concepts.clusters", "find the strategies of a model as clusters of its heat maps",
        "revgraph concepts clusters relevance.h5",
        "revgraph concepts clusters relevance.h5 --of-class 3,7 --k 2,3,4 --eigenvalues 8 --figures strategies",
    )  # fmt: skip
    command.add_argument("file", metavar="FILE", help="output of `revgraph explain-dataset`")
    command.add_argument("--out", metavar="FILE", help="HDF5 file to write (NAME.VARIANT.h5 beside FILE)")
    command.add_argument(
        "--variant", choices=["spectral", "absspectral", "fullspectral"], default="spectral",
        help="heat maps: summed over channels, sums of absolute values, or with all channels (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--by", choices=["label", "prediction", "none"], default="label", help="what makes a class (%(default)s)"
    )
    command.add_argument("--of-class", metavar="NUMBERS", type=numbers, help="only these classes")
    command.add_argument("--neighbors", metavar="N", type=count, default=10, help="nearest neighbours (%(default)s)")
    command.add_argument("--eigenvalues", metavar="N", type=count, default=32, help="eigenvectors (%(default)s)")
    command.add_argument("--k", metavar="NUMBERS", type=numbers, help="numbers of clusters (2 to 8)")
    command.add_argument(
        "--picture", choices=["tsne", "umap", "none"], default="tsne", help="samples in the plane (%(default)s)"
    )
    command.add_argument("--input", metavar="NAME", help="which input, if the model has several")
    command.add_argument("--figures", metavar="DIR", help="directory for a picture of each class")
    command.add_argument("--overwrite", action="store_true", help="replace files that exist")


def _add_data(command):
    add_reading(command)
    group = command.add_argument_group("names in DATA")
    group.add_argument(
        "--inputs", metavar="NAME", help="array or feature with the inputs (x, data, image/encoded, ...)"
    )
    group.add_argument("--labels", metavar="NAME", help="array or feature with the labels (y, label, ...)")


def numbers(text: str) -> list[int]:
    """Whole numbers that are separated by commas."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 3,12")
    return [int(number) for number in text.split(",")]
