"""The virtual environments of other libraries: made when they are first needed, kept in the checkout."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import Failed


@dataclasses.dataclass(frozen=True)
class Environment:
    """What a library needs.

    Args:
        pythons: First and last version of Python that it runs on.
        requirements: What pip installs with all that it depends on.
        alone: What pip installs without that.
        options: Options for pip.
        networks: The networks that are compared; None for those that are asked for.
        methods: The methods that are compared; None for those that are asked for.
    """

    pythons: tuple[tuple[int, int], tuple[int, int]]
    requirements: tuple[str, ...]
    alone: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    networks: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None

    @property
    def receipt(self) -> str:
        return "\n".join((*self.requirements, *self.alone))


CPU = ("--extra-index-url", "https://download.pytorch.org/whl/cpu")
"""Options for pip that find PyTorch without libraries for the GPU."""

ENVIRONMENTS = {
    "innvestigate": Environment(((3, 9), (3, 11)), ("innvestigate==2.1.2", "tensorflow==2.14.*")),
    # Torchvision, on which zennit depends for what is not used here, comes for the GPU only at some places.
    "zennit": Environment(
        ((3, 10), (3, 13)),
        ("torch==2.13.0", "numpy", "pillow", "click"),
        ("zennit==0.5.1",),
        CPU,
    ),
    # No newer transformers has all the names that LXT imports.
    "lxt": Environment(
        ((3, 11), (3, 13)),
        ("torch==2.13.0", "transformers==4.52.4", "numpy", "pillow", "click", "tabulate"),
        ("lxt==2.1", "zennit==0.5.1", "torchvision==0.28.0"),
        CPU,
        networks=("ViT-B/16", "BERT"),
        methods=("lrp.cp", "lrp.vit", "lrp.attnlrp"),
    ),
}


def ready(library, folder: Path) -> Path:
    """The Python of a library's environment, which is set up if it is not there.

    Args:
        library: A key of `ENVIRONMENTS`.
        folder: Where environments are kept.

    Raises:
        Failed: It cannot be set up here; the message says why.
    """
    environment, place = ENVIRONMENTS[library], folder / library
    python, receipt = place / "bin" / "python", place / ".ready"
    if receipt.is_file() and receipt.read_text() == environment.receipt and python.exists():
        return python.absolute()
    maker = interpreter(environment.pythons)
    print(f"Setting up {library}: this downloads it once and takes a few minutes.", file=sys.stderr, flush=True)
    _run([maker, "-m", "venv", "--clear", place], f"{library}: no virtual environment could be made")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *environment.options]
    for requirements, flags in ((environment.requirements, ()), (environment.alone, ("--no-deps",))):
        if requirements:
            _run([*pip, *flags, *requirements], f"{library} could not be installed")
    receipt.write_text(environment.receipt)
    return python.absolute()


def interpreter(pythons) -> str:
    """A Python between two versions.

    Raises:
        Failed: There is none.
    """
    (_, oldest), (_, newest) = pythons
    for command in (sys.executable, *(f"python3.{minor}" for minor in range(newest, oldest - 1, -1))):
        try:
            found = subprocess.run(
                [command, "-c", "import ensurepip, sys, venv; print(*sys.version_info[:2])"],
                capture_output=True,
                text=True,
            )
        except OSError:
            continue
        if found.returncode == 0 and pythons[0] <= tuple(map(int, found.stdout.split())) <= pythons[1]:
            return command
    raise Failed(f"needs Python 3.{oldest} to 3.{newest}, and none was found")


def _run(command, failure):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = re.sub(r"\S*/\S+", "...", lines[0]) if lines else f"status {done.returncode}"
        raise Failed(f"{failure}: {reason}"[:300])
