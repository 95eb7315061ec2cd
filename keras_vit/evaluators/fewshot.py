"""Few-shot linear evaluation: regularised least squares on frozen features, in closed form.

The measure of Figure 4 and Table 8 of arXiv:2010.11929v2, as google-research/big_vision's
`evaluators/fewshot_lsr.py` computes it.  N chosen images with features X (N, D), standardised with
their own mean and deviation, and one feature more of the constant 100, the bias; targets Y (N, C)
of +1 for the image's class and -1 for all others:

    W = (X'X + lambda I)^-1 X'Y = X'(XX' + lambda I)^-1 Y        # (D + 1, C)

and an image's class is the argmax of x'W.  The first form is solved where N > D, the second
elsewhere, both in float64: in float32 small lambdas decide up to half of the images differently.

Legend: `N` images, `D` features, `C` classes, `S` seeds, `K` shots, `L` lambdas.
"""

import numpy as np

from keras_vit.data.splits import TEST, TRAIN
from keras_vit.evaluators import features as feature_table

SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
L2_REG = 2.0**10
# What the older public code (scenic, vmoe) chooses from.
L2_GRID = tuple(2.0**i for i in range(-10, 20))
BIAS_FEATURE = 100.0
STD_EPSILON = 1e-5

_BLOCK = 2**22  # logits that are in memory at a time
# |error of a float32 dot product| <= n u |x| |w|; a little more with the roundings of x and w.
_ROUNDING = float(np.finfo(np.float32).eps) / 2


def choose_examples(labels, num_classes, shots, seed):
    """The images that a few-shot evaluation learns from, in the order of big_vision.

    One generator permutes the images of each class in turn; the first `shots` of each are taken, so
    that those of fewer shots are among those of more.  A class with fewer images gives all it has.

    Args:
        labels: integers (N,), in the order of the split.
        num_classes: C.
        shots: images of each class.
        seed: of `np.random.default_rng`.

    Returns:
        int64 (at most shots C,), places in the split, class by class.

    >>> choose_examples(np.array([0, 1, 0, 1, 0]), 2, 1, seed=0).tolist()
    [4, 1]
    """
    generator = np.random.default_rng(seed)
    labels = np.asarray(labels)
    permuted = [generator.permutation(np.where(labels == c)[0]) for c in range(num_classes)]
    return np.concatenate([places[:shots] for places in permuted]).astype(np.int64)


def standardise(features):
    """Returns (mean, std), float64 (D,) each: of the images that are learned from."""
    features = np.asarray(features, np.float64)
    return features.mean(axis=0), features.std(axis=0)


def least_squares(features, labels, num_classes, l2_regs=(L2_REG,)):
    """Solves for the weights.

    Args:
        features: (N, D), of the chosen images, standardised here.
        labels: integers (N,) in [0, C).
        num_classes: C.
        l2_regs: lambdas, positive.

    Yields:
        For each lambda: float64 (D + 1, C); the last row is for the constant `BIAS_FEATURE`.

    Raises:
        ValueError: for a lambda that is not positive, or no image.
    """
    if not len(features):
        raise ValueError("few-shot evaluation needs images to learn from. Received: none")
    for l2_reg in l2_regs:
        if not l2_reg > 0:
            raise ValueError(f"`l2_regs` must be positive. Received: {l2_reg}")
    x = np.asarray(features, np.float64)
    mean, std = standardise(x)
    x = (x - mean) / (std + STD_EPSILON)
    x = np.concatenate([x, np.full((len(x), 1), BIAS_FEATURE)], axis=1)  # (N, D + 1)
    y = np.full((len(x), num_classes), -1.0)
    y[np.arange(len(x)), labels] = 1.0
    is_primal = len(x) >= x.shape[1]
    gram = x.T @ x if is_primal else x @ x.T
    targets = x.T @ y if is_primal else y
    if len(l2_regs) == 1:
        regularised = gram + l2_regs[0] * np.eye(len(gram))
        solved = np.linalg.solve(regularised, targets)
        yield solved if is_primal else x.T @ solved
        return
    values, vectors = np.linalg.eigh(gram)
    rotated = vectors.T @ targets
    for l2_reg in l2_regs:
        solved = vectors @ (rotated / (values + l2_reg)[:, np.newaxis])
        yield solved if is_primal else x.T @ solved


def predict(features, mean, std, weights):
    """The class of each image: argmax of its standardised features times the weights.

    Computed in float32 and once more in float64 where two classes are too close for float32 to
    tell, so that the classes are those of float64.

    Args:
        features: (N, D).
        mean, std: (D,), from `standardise`.
        weights: (D + 1, C), from `least_squares`.

    Returns:
        int64 (N,); of equally high classes the first.
    """
    scale = 1.0 / (np.asarray(std, np.float64) + STD_EPSILON)
    # ((x - mean) scale)'W = x'(scale W) - (mean scale)'W
    kernel = weights[:-1] * scale[:, np.newaxis]
    bias = BIAS_FEATURE * weights[-1] - (mean * scale) @ weights[:-1]
    kernel32, bias32 = kernel.astype(np.float32), bias.astype(np.float32)
    largest = float(np.sqrt((kernel**2).sum(axis=0)).max())
    largest_bias = float(np.abs(bias).max())
    classes = np.empty(len(features), np.int64)
    rows = max(_BLOCK // weights.shape[1], 1)
    for start in range(0, len(features), rows):
        x = np.asarray(features[start : start + rows], np.float32)
        logits = x @ kernel32  # (rows, C)
        logits += bias32
        best = logits.argmax(axis=-1)
        if weights.shape[1] > 1:
            places = np.arange(len(x))
            highest = logits[places, best]
            logits[places, best] = -np.inf
            lengths = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
            error = _ROUNDING * ((x.shape[1] + 4) * lengths * largest + 2 * largest_bias)
            close = np.flatnonzero(~(highest - logits.max(axis=-1) > 2 * error))
            if len(close):
                exact = np.asarray(features[start + close], np.float64) - mean
                exact = (exact * scale) @ weights[:-1] + BIAS_FEATURE * weights[-1]
                best[close] = exact.argmax(axis=-1)
        classes[start : start + rows] = best
    return classes


def few_shot_accuracies(
    train_features,
    train_labels,
    test_features,
    test_labels,
    num_classes,
    *,
    shots=SHOTS,
    seeds=SEEDS,
    l2_regs=(L2_REG,),
):
    """Accuracy on all test images for every seed, number of shots and lambda.

    Args:
        train_features: (N, D), of the whole training split.
        train_labels: integers (N,).
        test_features: (N', D).
        test_labels: integers (N',).
        num_classes: C.
        shots: images of each class, several numbers of them.
        seeds: of `choose_examples`.
        l2_regs: lambdas.

    Returns:
        float64 (S, K, L), shares of the test images.
    """
    test_labels = np.asarray(test_labels)
    accuracies = np.empty((len(seeds), len(shots), len(l2_regs)))
    for s, seed in enumerate(seeds):
        for k, count in enumerate(shots):
            chosen = choose_examples(train_labels, num_classes, count, seed)
            few = np.asarray(train_features)[np.sort(chosen)]
            mean, std = standardise(few)
            labels = np.asarray(train_labels)[np.sort(chosen)]
            solutions = least_squares(few, labels, num_classes, l2_regs)
            for i, weights in enumerate(solutions):
                predictions = predict(test_features, mean, std, weights)
                accuracies[s, k, i] = np.mean(predictions == test_labels)
    return accuracies


def best_l2_reg(accuracies, l2_regs=L2_GRID):
    """The lambda of the older rule (scenic, vmoe): the best by its mean rank over data sets.

    Each data set ranks the lambdas by its *test* accuracy, as the public code does.  That code's
    sort leaves ties to the machine; here of two alike the first has the lower rank.

    Args:
        accuracies: (data sets, L), of one seed and one number of shots.
        l2_regs: the L lambdas.

    Returns:
        A float; of several with the highest mean rank the first.

    >>> best_l2_reg([[0.1, 0.3, 0.2], [0.2, 0.3, 0.4]], (1.0, 2.0, 4.0))
    2.0
    """
    ranks = [np.argsort(np.argsort(row, kind="stable"), kind="stable") for row in accuracies]
    return float(l2_regs[int(np.argmax(np.mean(ranks, axis=0)))])


def check_shots(labels, info, shots, split):
    """Raises ValueError for a class without images, or with fewer than the shots.

    Args:
        labels: integers (N,).
        info: the `DatasetInfo`, for its classes.
        shots: images of each class, several numbers of them.
        split: the split's name, for the message.
    """
    counts = np.bincount(labels, minlength=info.num_classes)
    fewest = int(counts.argmin())
    where = f"class {info.class_names[fewest]!r} in {split!r} of {info.name!r}"
    if counts[fewest] == 0:
        raise ValueError(
            f"every class must have images to learn from. Received: none of {where}; choose a "
            "split that has them, or allow fewer"
        )
    if counts[fewest] < max(shots):
        raise ValueError(
            f"every class must have at least as many images as shots. Received: {counts[fewest]} "
            f"of {where} for {max(shots)} shots; ask for fewer shots, or allow fewer images"
        )


class FewShot(feature_table.FeatureEvaluator):
    """Few-shot accuracy of a model's features on a data set, as an evaluator.

    Args:
        dataset: a name or folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`; None is the data set of the training that it is given to.
        shots: images of each class: one number, or several.
        seeds: of the choice of images.
        l2_reg: lambda, or "grid" for the older rule of `best_l2_reg` on this data set alone, which
            chooses on the test images.
        train_split: the split that the images are chosen from.
        test_split: the split that is scored.
        allow_fewer: whether classes may have fewer images than shots, and then give all they have,
            as in big_vision; without it that is an error.
        name: under which the numbers are logged; None takes "fewshot/" and the data set's name.
        data_dir, download: as in `keras_vit.data.pipeline.resolve`.
        **options: of `keras_vit.evaluators.features.FeatureOptions`, the default of whose
            `preprocessing` is here "big_vision".

    Raises:
        ValueError: for shots, seeds or a lambda that make no sense.
    """

    def __init__(
        self,
        dataset,
        shots=SHOTS,
        *,
        seeds=SEEDS,
        l2_reg=L2_REG,
        train_split=TRAIN,
        test_split=TEST,
        allow_fewer=False,
        name=None,
        data_dir=None,
        download=False,
        **options,
    ):
        self.shots = (shots,) if isinstance(shots, int) else tuple(shots)
        self.seeds = tuple(seeds)
        if not self.shots or min(self.shots) < 1 or not self.seeds:
            raise ValueError(
                f"`shots` must be positive, and `seeds` some. Received: {shots} and {seeds}"
            )
        if l2_reg != "grid" and not (isinstance(l2_reg, int | float) and l2_reg > 0):
            raise ValueError(f"`l2_reg` must be positive, or 'grid'. Received: {l2_reg!r}")
        self.l2_reg = l2_reg
        self.train_split, self.test_split = train_split, test_split
        self.allow_fewer = allow_fewer
        options = feature_table.FeatureOptions(**{"preprocessing": "big_vision", **options})
        super().__init__("fewshot", dataset, options, name, data_dir, download)

    def run(self, model):
        """Evaluates a model.

        Args:
            model: a model of this package with a (B, D) feature before its head.

        Returns:
            A dict of "5shot" and so on, the mean over the seeds, and "5shot/seed0" and so on, each
            a share of the test images; with a grid also "5shot/l2_reg".

        Raises:
            ValueError: for a model without features, a split or images that are not there.
        """
        info = self.data.info
        if not self.allow_fewer:
            for split in (self.train_split, self.test_split):
                info.num_examples(split)
            check_shots(self.data.labels(self.train_split), info, self.shots, self.train_split)
        train_features, train_labels = self.data.read(model, self.train_split)
        test_features, test_labels = self.data.read(model, self.test_split)
        grid = L2_GRID if self.l2_reg == "grid" else (float(self.l2_reg),)
        accuracies = few_shot_accuracies(
            train_features,
            train_labels,
            test_features,
            test_labels,
            info.num_classes,
            shots=self.shots,
            seeds=self.seeds,
            l2_regs=grid,
        )  # (S, K, L)
        metrics = {}
        for k, count in enumerate(self.shots):
            chosen = best_l2_reg(accuracies[:1, k], grid) if len(grid) > 1 else grid[0]
            of_seeds = accuracies[:, k, grid.index(chosen)]
            metrics[f"{count}shot"] = float(of_seeds.mean())
            for seed, accuracy in zip(self.seeds, of_seeds, strict=True):
                metrics[f"{count}shot/seed{seed}"] = float(accuracy)
            if len(grid) > 1:
                metrics[f"{count}shot/l2_reg"] = chosen
        return metrics
