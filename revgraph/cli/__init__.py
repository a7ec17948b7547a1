"""The command `revgraph`: explains images and datasets, checks, shows and exports explainers."""

import argparse
import contextlib
import importlib
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

import revgraph
from revgraph.cli.answers import UsageError, as_json, tell
from revgraph.cli.concept_options import add_concepts
from revgraph.cli.methods import methods
from revgraph.cli.options import (
    add_command,
    add_loading,
    add_model,
    add_model_file,
    add_reading,
    count,
    examples,
    methods_of,
    percentile,
    port,
    words,
)

FAILED, USAGE = 1, 2
"""The exit codes of a command that failed, and of one that was used wrongly."""

OPTIONS = {
    r"overwrite=True": "--overwrite",
    r"resume=True": "--resume",
    r"safe_mode=False": "--unsafe",
    r"batch_size=": "--batch-size",
    r"signature=": "--signature",
    r"custom_objects=\{'([^']*)': \.\.\.\}": r"--custom-objects MODULE, the module that has \1",
    r"size=\((\d+), (\d+)\)": r"--size \1x\2",
    r"class_names=\.\.\. of open_dataset": "--classes FILE",
    r"\bby=None": "--by none",
    r"\bk=\.\.\.": "--k ...",
    r"input_name=\.\.\.": "--input NAME",
    r"labels='([^']*)'": r"--labels \1",
    r"variant=absspectral": "--variant absspectral",
    r"port=(\d+)": r"--port \1",
    r"kind=[\"'](\w+)[\"']": r"--kind \1",
    r"neuron_selection=\"label\"": "--target label",
    r"input_bounds=(\([^)]*\))": r'--param "input_bounds=\1"',
    r"\bwidths is": "--widths is",
    r"^n=(\d+) samples": r"--samples \1",
    r"pass truth=, True": "give DATA the array truth, True",
    r"call fit\(x_train\) before analyze, or pass patterns=": "it is fitted to data in Python, by fit(x_train)",
    r"\brevgraph\.concepts\.collect(\([^)]*\))?": "`revgraph concepts collect`",
    r"\brevgraph\.explain_dataset\([^)]*\)|\bexplain_dataset\b": "`revgraph explain-dataset`",
    r"(\w+)=\.\.\.": r"--param \1=...",
}
"""Patterns of arguments in error messages, and the options that stand for them on the command line.

An option stands for an argument only in commands that have it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The words behind `revgraph` on the command line; by default those of this process.

    Returns:
        The exit code: 0, 1 where the command failed, 2 where it was used wrongly.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parser().parse_args(words)
    except WrongArguments as wrong:
        # It is not known what the options would be, but a program that asks for JSON gets JSON.
        return _failed(argparse.Namespace(debug=False, json="--json" in words), str(wrong), USAGE, wrong.command)
    try:
        with _warnings_in_one_line():
            return _run(options)
    except BrokenPipeError:
        # The program that reads the output has ended, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except KeyboardInterrupt as interrupt:
        return _failed(options, str(interrupt) or "interrupted", FAILED)
    except Exception as error:
        return _failed(options, _message(error, options), USAGE if isinstance(error, UsageError) else FAILED)


def _run(options):
    if not options.json:
        return _called(options)
    # What else is printed, such as by the user's layers, is not for the program that reads the JSON.
    options.stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        return _called(options)


def _called(options):
    if not options.needs_tensorflow:
        return options.run(options) or 0
    with _quiet_tensorflow(options.debug):
        importlib.import_module("tensorflow")
        module, _, name = options.run.rpartition(".")
        commands = importlib.import_module(f"revgraph.cli.{module or 'commands'}")
    return getattr(commands, name)(options) or 0


def _failed(options, message, code, command="revgraph"):
    if options.debug:
        traceback.print_exc()
    print(f"{command}: error: {message}", file=sys.stderr)
    if options.json:
        print(as_json({"error": message}))
    return code


def _message(error, options):
    """The message of an error in one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        text = f"{error.strerror}{where}"
    text = str(text)
    for argument, option in OPTIONS.items():
        named = re.search(r"--([\w-]+)", option)
        if named is None or hasattr(options, named[1].replace("-", "_")):
            text = re.sub(argument, option, text)
    return " ".join(text.split()) or type(error).__name__


@contextlib.contextmanager
def _warnings_in_one_line():
    def show(message, category, *args, **kwargs):
        if issubclass(category, UserWarning):
            print(f"revgraph: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _quiet_tensorflow(debug):
    """Hides what TensorFlow prints while it is imported, unless the import fails."""
    if debug or "tensorflow" in sys.modules:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    # It prints from C++, before any setting can stop it.
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class WrongArguments(Exception):
    """The arguments cannot be parsed.

    Args:
        command: The command.
        message: What is wrong with them.
    """

    def __init__(self, command: str, message: str) -> None:
        super().__init__(message)
        self.command = command


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions."""

    def error(self, message: str) -> NoReturn:
        """Raises `WrongArguments`."""
        raise WrongArguments(self.prog, f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = Parser(
        prog="revgraph",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Explain the predictions of Keras and TensorFlow models by relevance propagation and gradients.",
        epilog=examples(
            "revgraph demo",
            "revgraph explain model.keras cat.png --preprocess keras.applications.vgg16 --out explained",
            "revgraph explain-dataset exported/ images/ --scale 1/255 --size 224x224 --out relevance.h5",
            "revgraph COMMAND --help",
        )
        + "\n\nA MODEL is a .keras or .h5 file or a SavedModel directory. Exit codes: 0 done, 1 failed, 2 wrong usage.",
    )
    top.add_argument("--version", action="version", version=f"revgraph {revgraph.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_explain, _add_explain_dataset, add_concepts, _add_view, _add_evaluate, _add_check, _add_summary,
                _add_methods, _add_export, _add_demo):  # fmt: skip
        add(commands)
    return top


def _add_explain(commands):
    command = add_command(
        commands, "explain", "explain", "explain images or arrays: write heatmap, overlay and relevance of each",
        "revgraph explain model.keras cat.png",
        "revgraph explain vgg16.keras *.jpg --preprocess keras.applications.vgg16 --size 224x224 --target top3",
        "revgraph explain exported/ digits.npy --scale 1/255 --target 7 --method lrp.gamma --param gamma=0.1 --json",
    )  # fmt: skip
    add_model(command)
    command.add_argument(
        "inputs", metavar="IMAGE", nargs="+",
        help="image, .npy of one sample or a batch of them, or .npz with one array for each of several inputs",
    )  # fmt: skip
    command.add_argument(
        "--target",
        default="top1",
        help="what to explain: top1, top3, ... for the largest outputs, a number or a name of a class (%(default)s)",
    )  # fmt: skip
    command.add_argument("--output", metavar="NAME", help="which output, if the model has several")
    command.add_argument("--out", metavar="DIR", default="explained", help="directory to write to (%(default)s)")
    command.add_argument("--overwrite", action="store_true", help="replace files that exist")
    command.add_argument("--cmap", metavar="NAME", help="colour map of the heatmap, such as seismic")
    command.add_argument(
        "--percentile", metavar="P", type=percentile, help="percentile of relevance that gets the last colour (100)"
    )
    add_reading(command)


def _add_explain_dataset(commands):
    command = add_command(
        commands, "explain-dataset", "explain_dataset",
        "explain a whole dataset: write relevance, predictions and labels to one output",
        "revgraph explain-dataset model.keras images/ --size 224x224 --scale 1/255 --out relevance.h5",
        "revgraph explain-dataset model.keras images/ --size 224x224 --scale 1/255 --out relevance.h5 --resume",
        "revgraph explain-dataset exported/ test.npz --target label --out relevance.h5 --project",
        "revgraph explain-dataset model.keras train.tfrecord --out shards/ --batch-size 64",
        "revgraph explain-dataset model.keras houses.csv --labels price --out relevance.csv",
        "revgraph explain-dataset model.keras images/ --size 224x224 --out relevance.h5 --engine ray --workers 4",
    )  # fmt: skip
    add_model(command)
    command.add_argument(
        "data", metavar="DATA", help="directory of images or TFRecord files, .npy, .npz, .h5, .csv or .tfrecord file"
    )
    command.add_argument(
        "--out", metavar="PATH", required=True, help="FILE.h5, NAME.zarr, FILE.csv, or a directory for .npy shards"
    )
    command.add_argument(
        "--target", default="top1",
        help="what to explain: top1 for the largest output, label for that of the dataset, a number or a name of a "
        "class (%(default)s)",
    )  # fmt: skip
    command.add_argument("--output", metavar="NAME", help="which output, if the model has several")
    command.add_argument("--batch-size", metavar="N", type=count, help="samples computed at once (32)")
    command.add_argument("--workers", metavar="N", type=count, default=1, help="processes that compute (%(default)s)")
    command.add_argument("--engine", choices=("ray",), help="where they run: ray for a Ray cluster (this machine)")
    command.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    command.add_argument("--overwrite", action="store_true", help="replace an output, or begin an interrupted run anew")
    command.add_argument("--stop-on-failure", action="store_true", help="end at the first sample that fails")
    command.add_argument("--with-inputs", action="store_true", help="write the inputs too")
    command.add_argument("--ledger", action="store_true", help="write where the relevance of each sample went, too")
    command.add_argument(
        "--project", action="store_true", help="also write what ViRelAy opens: project.yaml and inputs"
    )
    add_reading(command)
    group = command.add_argument_group("names in DATA")
    group.add_argument(
        "--inputs", metavar="NAME", help="array or feature with the inputs (x, data, image/encoded, ...)"
    )
    group.add_argument("--labels", metavar="NAME", help="array or feature with the labels (y, label, ...)")


def _add_view(commands):
    command = add_command(
        commands, "view", "viewing.view", "show what explain-dataset wrote, on a page in the browser",
        "revgraph view relevance.h5",
        "revgraph view epsilon.h5 gradient.h5 --inputs test.npy --classes classes.txt",
        "revgraph view relevance.h5 --concepts concepts.h5 --port 5006 --no-browser",
    )  # fmt: skip
    command.add_argument(
        "results", metavar="RESULTS", nargs="+",
        help="FILE.h5, NAME.zarr, or a directory of .npy shards; several of one dataset stand side by side",
    )  # fmt: skip
    command.add_argument(
        "--inputs", metavar="FILE",
        help="inputs of all samples, where they were not written: .npy, or .h5 with data as ViRelAy has it",
    )  # fmt: skip
    command.add_argument("--concepts", metavar="FILE", help="what `revgraph concepts collect` wrote of the same model")
    command.add_argument("--classes", metavar="FILE", help="names of the classes: one per line, or JSON")
    command.add_argument(
        "--kind", choices=("images", "series", "tokens"), help="what samples are, where their axes do not say it"
    )
    command.add_argument("--port", metavar="N", type=port, help="port of the page on this machine (any that is free)")
    command.add_argument("--no-browser", action="store_true", help="print the address, and do not open the browser")


def _add_evaluate(commands):
    command = add_command(
        commands, "evaluate", "evaluating.compare", "measure how good the explanations of methods are",
        "revgraph evaluate model.keras test.npz --methods gradient,lrp.epsilon --metrics relevance_gain,entropy",
        "revgraph evaluate model.keras test.npz --metrics relevance_mass,pointing_game --out places --json",
    )  # fmt: skip
    add_model_file(command)
    command.add_argument(
        "data", metavar="DATA",
        help=".npz file with the arrays x, and if they are known y (classes) and truth (bool); or .npy file of samples",
    )  # fmt: skip
    command.add_argument(
        "--methods", metavar="NAMES", type=methods_of, default="gradient,lrp.epsilon,lrp.epsilon_plus",
        help="methods, separated by commas (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--metrics", metavar="NAMES", type=words, default="relevance_gain,parameter_randomisation,entropy",
        help="metrics, separated by commas (%(default)s)",
    )  # fmt: skip
    command.add_argument("--batch-size", metavar="N", type=count, help="samples computed at once (32)")
    command.add_argument(
        "--out", metavar="NAME", default="comparison", help="writes NAME.json, NAME.csv and NAME.png (%(default)s)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_loading(command)


def _add_check(commands):
    command = add_command(
        commands, "check", "check", "say whether a method can explain a model, and what is missing if not",
        "revgraph check model.keras --method lrp.alpha_1_beta_0",
        "revgraph check exported/ --json",
    )  # fmt: skip
    add_model(command)


def _add_summary(commands):
    command = add_command(
        commands, "summary", "summary", "show which layer gets which rule, and why",
        "revgraph summary model.keras",
        "revgraph summary exported/ --method lrp.epsilon_gamma_box --param low=0 --param high=1",
    )  # fmt: skip
    add_model(command)


def _add_methods(commands):
    command = add_command(
        commands, "methods", _list_methods, "list all methods",
        "revgraph methods",
        "revgraph methods lrp --json",
    )  # fmt: skip
    command.add_argument("filter", nargs="?", default="", help="only names that contain this")


def _add_export(commands):
    command = add_command(
        commands, "export", "export", "write an explainer as a SavedModel that runs without revgraph",
        "revgraph export model.keras --method lrp.epsilon_plus_flat --out explainer",
        "revgraph export model.keras --out serving/explainer --serving-version 1",
    )  # fmt: skip
    add_model(command)
    command.add_argument("--out", metavar="DIR", required=True, help="directory to write")
    command.add_argument(
        "--serving-version", metavar="N", type=count, help="number of the version directory of TensorFlow Serving"
    )
    command.add_argument("--overwrite", action="store_true", help="replace a directory that exists")


def _add_demo(commands):
    command = add_command(
        commands, "demo", "demo", "train a small network on handwritten digits and explain it",
        "revgraph demo --out digits",
    )  # fmt: skip
    command.add_argument("--out", metavar="DIR", default="demo", help="directory to write to (%(default)s)")
    command.add_argument("--epochs", metavar="N", type=count, help="epochs of training")


def _list_methods(options):
    found = {name: row for name, row in methods().items() if options.filter in name}
    if not found:
        raise UsageError(f"No method has {options.filter!r} in its name. `revgraph methods` lists all.")
    rows = [("name", "computes", "paper"), *((name, *row) for name, row in found.items())]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    lines = (f"{name:{widths[0]}}  {what:{widths[1]}}  {paper}".rstrip() for name, what, paper in rows)
    told = [{"name": name, "computes": what, "paper": paper} for name, (what, paper) in found.items()]
    tell(options, told, "\n".join(lines))
