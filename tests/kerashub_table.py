"""A plugin of pytest that writes what `test_kerashub.py` finds as a page of the documentation.

`make test-kerashub` uses it: `pytest -p tests.kerashub_table --families docs/kerashub-families.md ...`.
"""

import re
from importlib.metadata import version
from pathlib import Path

CHECKS = {
    "test_the_graph_computes_what_the_model_computes": "graph",
    "test_the_gradient_is_that_of_a_tape": "gradient",
    "test_relevance_and_its_ledger": "LRP",
    "test_relevance_by_a_preset_for_attention": "AttnLRP",
    "test_weights_that_are_assigned_later_are_seen": "live weights",
}

TASK_CHECKS = {
    "test_a_task_is_explained_from_what_predict_takes": "relevance and ledger",
    "test_the_tokens_of_a_task_are_those_that_have_relevance": "tokens",
}

PAGE = """# Families of KerasHub

revgraph explains the models of [KerasHub](https://keras.io/keras_hub/). This table is written by `make test-kerashub`,
which builds a small model of each family with random weights, and checks five things:

* *graph*: the traced graph computes what the model computes.
* *gradient*: `input_t_gradient` agrees with a `tf.GradientTape`. For ids the tape watches the vectors that they look
  up.
* *LRP*: relevance by `lrp.epsilon` is finite, and its ledger closes: nothing is lost unaccounted for.
* *AttnLRP*: the same for `lrp.attnlrp`.
* *live weights*: weights that are assigned later are seen.

Checked with {versions}.

| family | class | {checks} |
|---|---|{lines}
{rows}

## Tasks

Every task is built with random weights and a small vocabulary, and given texts, images or both, as `predict` takes
them.

* *relevance and ledger*: relevance is finite and not zero, by `lrp.attnlrp` where texts are read and by
  `lrp.epsilon_plus` elsewhere, and its ledger closes.
* *tokens*: each token has its text, and padding has no relevance where the model takes a mask of it. A task without
  texts says so.

| task | family | {task_checks} |
|---|---|{task_lines}
{task_rows}

Tasks marked with * are given what their preprocessor returns when it is called once: those that hide tokens by chance,
and those whose preprocessor has no inputs of the model for a text that goes on.

These tasks are not explained:

{refused_tasks}

## What is refused

{refused}
These models read values of tensors in their Python code, such as a number of steps or the size of a picture. Keras
cannot compile them either: `predict` fails. The error of revgraph says which code it is.

`{single}` compute some steps in float32. They are checked in float32, and all others in float64.
"""


def pytest_addoption(parser):
    parser.addoption("--families", help="the page to which the table of the families of KerasHub is written")


def pytest_configure(config):
    if config.getoption("families") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(Path(config.getoption("families"))))


class Table:
    """Collects the outcomes, which workers report to the process that was started first.

    Args:
        path: Where the page is written.
    """

    def __init__(self, path):
        self.path = path
        self.failed, self.seen = set(), set()

    def pytest_runtest_logreport(self, report):
        named = re.search(r"::(\w+)\[(.*)\](@.*)?$", report.nodeid)
        if named and named[1] in CHECKS | TASK_CHECKS:
            self.seen.add((named[2], named[1]))
            if report.failed:
                self.failed.add((named[2], named[1]))

    def pytest_sessionfinish(self):
        if self.seen:
            self.path.write_text(self.page())

    def page(self):
        """The text of the page."""
        from tests.kerashub_families import FAMILIES, REFUSED
        from tests.kerashub_tasks import REFUSED_TASKS, TASKS
        from tests.test_kerashub import SINGLE

        def mark(family, check):
            if (family, check) not in self.seen:
                return ""
            return "no" if (family, check) in self.failed else "yes"

        def class_of(family):
            return family.model.name.rsplit(".", 1)[-1]

        rows = [
            f"| {name} | `{class_of(family)}` | {' | '.join(mark(name, check) for check in CHECKS)} |"
            for name, family in FAMILIES.items()
        ]
        names = {id(family): name for name, family in FAMILIES.items()}
        tasks = [
            f"| `{name}`{' *' if task.once else ''} | {names[id(task.family)]} | "
            f"{' | '.join(mark(name, check) for check in TASK_CHECKS)} |"
            for name, task in TASKS.items()
        ]
        versions = ", ".join(f"{name} {version(name)}" for name in ("keras-hub", "keras", "tensorflow"))
        return PAGE.format(
            versions=versions,
            checks=" | ".join(CHECKS.values()),
            lines="---|" * len(CHECKS),
            rows="\n".join(rows),
            task_checks=" | ".join(TASK_CHECKS.values()),
            task_lines="---|" * len(TASK_CHECKS),
            task_rows="\n".join(tasks),
            refused_tasks="\n".join(f"* `{name}` {why}." for name, why in REFUSED_TASKS.items()),
            refused="\n".join(f"* {name}: `{class_of(family)}`" for name, family in REFUSED.items()) + "\n",
            single="`, `".join(sorted(SINGLE)),
        )
