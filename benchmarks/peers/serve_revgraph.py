"""revgraph's side of a comparison."""

from protocol import serve


def prepare(question):
    from benchmarks import programs
    from benchmarks.networks import network, samples

    model = network(question["network"], question["image_size"])
    batches = {batch: samples(model, batch) for batch in question["batch_sizes"]}

    def set_up():
        if question["method"] == "plain gradient":
            programs_by_batch = {batch: programs.gradient(model, x) for batch, x in batches.items()}
        else:
            analyzer = programs.make_analyzer(question["method"], model)
            programs_by_batch = {batch: programs.explain(analyzer, x) for batch, x in batches.items()}
        return lambda batch: programs_by_batch[batch]()

    return {}, set_up


serve(prepare)
