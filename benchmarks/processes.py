"""Jobs in fresh Python processes, so that no measurement sees what another has left behind."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}

EIGEN = {"TF_ENABLE_ONEDNN_OPTS": "0"}
"""With this, TensorFlow uses its own kernels also where the CPU has what oneDNN's need."""

ACCOUNTED = {"TF_CPU_ALLOCATOR_USE_BFC": "1"}
"""With this, TensorFlow keeps an account of its memory on every CPU."""


class Failed(RuntimeError):
    """A job that came to no result, and why."""


class Worker:
    """A process that is sent JSON, a line at a time, and answers each with a line of JSON.

    Args:
        command: The command, without the question that the worker is started with.
        question: What it is started with.
        environment: Variables that the process gets besides those of this one.
    """

    def __init__(self, command, question, environment=None):
        # Another Python must not look for its packages where this one does.
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        self._process = subprocess.Popen(
            [*map(str, command), json.dumps(question)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**kept, **QUIET, **(environment or {})},
        )
        self._said = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self):
        for line in self._process.stderr:
            self._said.append(line.rstrip())
            del self._said[:-30]

    def answer(self, seconds=None) -> dict:
        """The next answer.

        Raises:
            Failed: The process ended, or took longer than `seconds`.
        """
        late = threading.Event()

        def stop():
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, stop) if seconds else None
        if timer:
            timer.start()
        line = self._process.stdout.readline()
        if timer:
            timer.cancel()
        if late.is_set():
            raise Failed(f"not done within {seconds:.0f} s")
        if not line:
            self._process.wait()
            self._listener.join(5)
            raise Failed(self._said[-1] if self._said else f"ended with status {self._process.returncode}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def ask(self, question, seconds=None) -> dict:
        """Sends a question and waits for the answer."""
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.answer(seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._listener.join(5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            stream.close()


def run_job(job, environment=None, **arguments) -> dict:
    """Runs a function of `benchmarks.jobs` in a fresh process, with more environment variables than this one has.

    Raises:
        Failed: The job came to no result.
    """
    command = [sys.executable, "-m", "benchmarks.jobs"]
    environment = {"PYTHONPATH": str(ROOT), **(ACCOUNTED if job == "memory" else {}), **(environment or {})}
    with Worker(command, {"job": job, "arguments": arguments}, environment) as worker:
        return worker.answer()
