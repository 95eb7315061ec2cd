"""`keras_vit.reproduce`: a table or figure of the paper, planned, run and compared."""

import difflib
import pathlib

from keras_vit.files import write_whole
from keras_vit.paper.execute import check_runs, execute
from keras_vit.paper.experiments import EXPERIMENTS
from keras_vit.paper.page import make_page
from keras_vit.paper.plan import TERAFLOPS, make_plan
from keras_vit.paper.results import make_results
from keras_vit.paper.small import make_small
from keras_vit.paper.tiny import shrink

SCALES = ("full", "small", "tiny")


def get_experiment(name, models=None, scale="full"):
    """The `Experiment` of a table or figure.

    Args:
        name, models, scale: as in `reproduce`.

    Raises:
        ValueError: as `reproduce`.
    """
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(str(name), EXPERIMENTS, n=3) or EXPERIMENTS
        raise ValueError(
            f"`name` must be one of {', '.join(EXPERIMENTS)}. Received: {name!r}; did you mean "
            f"{' or '.join(close)}?"
        )
    if scale not in SCALES:
        raise ValueError(f"`scale` must be one of {', '.join(SCALES)}. Received: {scale!r}")
    if models is not None and not models:
        raise ValueError("`models` must name some. Received: none; leave it out for all")
    experiment = EXPERIMENTS[name](None if models is None else list(models))
    return {"full": lambda same: same, "small": make_small, "tiny": shrink}[scale](experiment)


def reproduce(
    name,
    *,
    models=None,
    plan=False,
    scale="full",
    workdir=None,
    teraflops=TERAFLOPS,
    data_dir=None,
    download=False,
    progress=True,
):
    """Does the experiment behind a table or figure of arXiv:2010.11929v2, and compares.

    Every pre-training, fine-tuning and evaluation is a run with a folder of its own in
    `workdir/runs`.  What is finished is not repeated: the same call goes on where it was stopped.

    Args:
        name: "table2", "table5" to "table9", "figure3" to "figure5", "figure8", "figure9",
            "figure13", or "vtab".
        models: The rows: names of the paper, such as "ViT-B/16" (of "table2", "table9" and "vtab"
            the names of their rows, "ViT-L/16 I21k"), and sources of your own models, which
            `keras_vit.from_pretrained` takes; None takes all of the paper.
        plan: Whether to give the `Plan` only.
        scale: "full", "tiny" for the same runs with tiny models on the digits, or, of "table8",
            "figure8", "figure9" and "figure13", "small": small models on Fashion-MNIST with three
            seeds each.
        workdir: Folder of the runs and of `results.txt`, `.csv`, `.json` and `.html`.
        teraflops: What the plan's hours are for, 10^12 operations a second.
        data_dir: Where TFDS keeps its data sets.
        download: Whether a data set that is not there may be downloaded.
        progress: Whether to show the progress on stderr.

    Returns:
        `Results`, or with `plan` a `Plan`; `str()` of either is a table.

    Raises:
        ValueError: For an unknown name or scale, no `workdir`, or a run on data that is not public.
        As `keras_vit.finetune` and the evaluators: whatever stops a run.
    """
    experiment = get_experiment(name, models, scale)
    if plan:
        return make_plan(experiment, teraflops=teraflops)
    if workdir is None:
        raise ValueError("`workdir` must name the folder of the runs. Received: None")
    check_runs(experiment)
    workdir = pathlib.Path(workdir)
    found = execute(experiment, workdir, data_dir=data_dir, download=download, progress=progress)
    results = make_results(experiment, found)
    write_results(results, workdir)
    return results


def write_results(results, workdir):
    """Writes `results.txt`, `results.csv`, `results.json` and `results.html`.

    Args:
        results: `Results`.
        workdir: Folder that is there.

    Returns:
        A dict from the ending of each file to its path.
    """
    texts = {
        "txt": f"{results}\n",
        "csv": results.to_csv(),
        "json": results.to_json() + "\n",
        "html": make_page(results),
    }
    paths = {ending: pathlib.Path(workdir) / f"results.{ending}" for ending in texts}
    for ending, path in paths.items():
        write_whole(path, texts[ending])
    return paths
