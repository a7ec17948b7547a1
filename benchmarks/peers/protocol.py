"""How a worker talks: JSON lines on standard output, whatever libraries print. Standard library only."""

import json
import os
import sys
import time


def open_answers():
    """A function that answers. What others write to standard output goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content):
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    return answer


def one_line(error):
    """An exception in one line, without where files lie."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"[:200]


def serve(prepare):
    """Serves one method on one network: reports the first call, then times a call for every batch size asked for.

    `prepare(question)` loads libraries and the model, which is not timed, and returns the versions and a function that
    sets the method up and returns `run(batch)`.
    """
    answer = open_answers()
    question = json.loads(sys.argv[1])
    try:
        versions, set_up = prepare(question)
        start = time.perf_counter()
        run = set_up()
        run(question["batch_sizes"][0])
        answer({"first_call": time.perf_counter() - start, "versions": versions})
        for line in sys.stdin:
            batch = json.loads(line)["batch"]
            start = time.perf_counter()
            run(batch)
            answer({"seconds": time.perf_counter() - start})
    except Exception as error:
        answer({"error": one_line(error)})
