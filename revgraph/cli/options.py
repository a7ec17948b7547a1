"""Options that several commands have, and the types of options."""

import argparse
import ast
import difflib
import math
import re
from typing import Any

from revgraph.cli.methods import methods

METHOD = "lrp.epsilon_plus_flat"
"""The default method."""


def add_command(commands: Any, name: str, run: Any, what: str, *lines: str) -> argparse.ArgumentParser:
    """Adds a command with the options that all have.

    Args:
        commands: What the parser's `add_subparsers` returned.
        name: The name of the command.
        run: The function that runs it; or its name in `revgraph.cli.commands`, or `module.name` in `revgraph.cli`.
        what: What it does, for the help.
        *lines: Examples.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=examples(*lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.set_defaults(run=run, needs_tensorflow=isinstance(run, str))
    command.add_argument("--json", action="store_true", help="print the results as JSON")
    command.add_argument("--debug", action="store_true", help="show where an error comes from, and all log messages")
    return command


def examples(*lines: str) -> str:
    """Examples as the last part of a help text."""
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def add_model(command: argparse.ArgumentParser) -> None:
    """Adds the model, the method, and how the model is read."""
    add_model_file(command)
    add_method(command)
    add_loading(command)


def add_model_file(command: argparse.ArgumentParser, **options: Any) -> None:
    """Adds the model's file."""
    command.add_argument("model", metavar="MODEL", help=".keras or .h5 file, or SavedModel directory", **options)


def add_method(command: argparse.ArgumentParser, default: str | None = METHOD, said: str = METHOD) -> None:
    """Adds the method and its parameters.

    Args:
        command: The command.
        default: The method by default.
        said: What the help says of it.
    """
    command.add_argument(
        "--method", metavar="NAME", type=method, default=default, help=f"see `revgraph methods` ({said})"
    )
    command.add_argument(
        "--param", metavar="KEY=VALUE", type=parameter, action="append", default=[],
        help="parameter of the method, such as epsilon=0.1; may be repeated",
    )  # fmt: skip


def add_loading(command: argparse.ArgumentParser) -> None:
    """Adds how the model is read."""
    command.add_argument("--signature", metavar="NAME", help="signature of the SavedModel (serving_default)")
    command.add_argument(
        "--custom-objects", metavar="MODULE", help="module with the model's own classes and functions, such as layers"
    )
    command.add_argument(
        "--unsafe", action="store_true", help="run Python code in the model file (Lambda layers): only if you trust it"
    )


def add_reading(command: argparse.ArgumentParser) -> None:
    """Adds how samples are read."""
    group = command.add_argument_group("reading")
    group.add_argument("--size", metavar="WxH", type=size, help="resize images to this width and height")
    prepare = group.add_mutually_exclusive_group()
    prepare.add_argument(
        "--preprocess", metavar="MODULE",
        help="apply preprocess_input of this module, such as keras.applications.vgg16, or a function module.name",
    )  # fmt: skip
    prepare.add_argument("--scale", metavar="X", type=number, help="multiply by this, such as 1/255")
    group.add_argument("--offset", metavar="X", type=number, help="add this after --scale, such as -1")
    group.add_argument(
        "--classes",
        metavar="FILE",
        help="names of the classes, in the order of the model's outputs: one per line, or JSON",
    )


# The types of options.


def method(name: str) -> str:
    """The name of a method."""
    if name not in methods():
        near = difflib.get_close_matches(name, methods(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`revgraph methods` lists all"
        raise argparse.ArgumentTypeError(f"there is no method {name!r}; {hint}")
    return name


def words(text: str) -> list[str]:
    """Names that are separated by commas."""
    found = [part for part in (part.strip() for part in text.split(",")) if part]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} has no names that are separated by commas")
    return found


def methods_of(text: str) -> list[str]:
    """Names of methods that are separated by commas."""
    return [method(name) for name in words(text)]


def parameter(text: str) -> tuple[str, Any]:
    """A parameter KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def size(text: str) -> tuple[int, int]:
    """A width and a height."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height, such as 224x224")
    return int(found[1]), int(found[2])


def number(text: str) -> float:
    """A number, or a quotient of two."""
    try:
        value, *divisors = (float(part) for part in text.split("/", 1))
        value = value / divisors[0] if divisors else value
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 1/255 or 0.5")
    return value


def percentile(text: str) -> float:
    """A number above 0 and up to 100."""
    value = number(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 100")
    return value


def port(text: str) -> int:
    """The number of a port."""
    value = count(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to 65535")
    return value


def png(text: str) -> str:
    """The name of a PNG file."""
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png, and the picture is a PNG file")
    return text


def count(text: str) -> int:
    """A positive whole number."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
