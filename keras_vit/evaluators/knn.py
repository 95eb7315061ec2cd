"""k nearest neighbours on frozen features, weighted by similarity, as DINO evaluates.

An image's similarity to a training image is the cosine of their features; each of the k most
similar votes for its class with exp(similarity / T), T = 0.07 (arXiv:1805.01978, section 3.4;
facebookresearch/dino `eval_knn.py`).

Legend: `N` training images, `M` images to classify, `F` features, `C` classes.
"""

import numpy as np

from keras_vit.data.splits import TEST, TRAIN
from keras_vit.evaluators.features import FeatureEvaluator, FeatureOptions

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
_BLOCK = 2**24  # similarities that are in memory at a time
_TOP = 5


def normalise(features):
    """Divides each feature vector by its length; float32 (N, F)."""
    features = np.asarray(features, np.float32)
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)


def knn_votes(train_features, train_labels, features, num_classes, k, temperature=TEMPERATURE):
    """The votes for every class.

    Args:
        train_features: (N, F), normalised here.
        train_labels: integers (N,) in [0, C).
        features: (M, F), normalised here.
        num_classes: C.
        k: number of neighbours, or several.
        temperature: T.

    Returns:
        float32 (M, C), or for several k a list of them.

    Raises:
        ValueError: for a k that is not in [1, N].
    """
    several = (k,) if isinstance(k, int) else tuple(k)
    num_train = len(train_features)
    for number in several:
        if not 1 <= number <= num_train:
            raise ValueError(
                f"`k` must be between 1 and the number of training images, {num_train}. "
                f"Received: {number}"
            )
    train_features, features = normalise(train_features), normalise(features)
    train_labels = np.asarray(train_labels)
    votes = [np.zeros((len(features), num_classes), np.float32) for _ in several]
    rows = max(_BLOCK // num_train, 1)
    for start in range(0, len(features), rows):
        similarity = features[start : start + rows] @ train_features.T  # (rows, N)
        nearest = _most_similar(similarity, max(several))  # (rows, k)
        weights = np.exp(np.take_along_axis(similarity, nearest, axis=-1) / temperature)
        classes = train_labels[nearest]
        places = np.broadcast_to(np.arange(len(nearest))[:, np.newaxis], nearest.shape)
        for number, of_k in zip(several, votes, strict=True):
            np.add.at(
                of_k[start : start + rows],
                (places[:, :number], classes[:, :number]),
                weights[:, :number],
            )
    return votes[0] if isinstance(k, int) else votes


def _most_similar(similarity, k):
    """The places of the k highest in each row, the highest first; of two alike the first."""
    if k < similarity.shape[-1]:
        chosen = np.argpartition(-similarity, k - 1, axis=-1)[:, :k]
        chosen = np.sort(chosen, axis=-1)
    else:
        chosen = np.broadcast_to(np.arange(k), similarity.shape)
    order = np.argsort(-np.take_along_axis(similarity, chosen, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(chosen, order, axis=-1)


def knn_accuracies(votes, labels, k):
    """Top-1 and top-5 accuracy of votes.

    Args:
        votes: (M, C), of `knn_votes`.
        labels: integers (M,).
        k: number of neighbours.  Fewer than five have voted for fewer than five classes, so that
            the second number is then the accuracy among the best k.

    Returns:
        Two floats, shares of the images; of equal votes the first class comes first.

    >>> knn_accuracies(np.array([[0.0, 2.0, 1.0]]), np.array([2]), 20)
    (0.0, 1.0)
    """
    best = np.argsort(-votes, axis=-1, kind="stable")
    is_right = best == np.asarray(labels)[:, np.newaxis]
    top = is_right[:, : min(_TOP, k)].any(axis=-1)
    return float(is_right[:, 0].mean()), float(top.mean())


class KNN(FeatureEvaluator):
    """Accuracy of nearest neighbours among a model's features, as an evaluator.

    Args:
        dataset: a name or folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`; None is the data set of the training that it is given to.
        k: number of neighbours, or several.
        temperature: of the votes.
        train_split: the split of the neighbours.
        test_split: the split that is scored.
        name: under which the numbers are logged; None takes "knn/" and the data set's name.
        data_dir, download: as in `keras_vit.data.pipeline.resolve`.
        **options: of `keras_vit.evaluators.features.FeatureOptions`.  DINO's numbers are those of
            `representation="class_token"` and `preprocessing="dino"`.
    """

    def __init__(
        self,
        dataset,
        k=NEIGHBOURS,
        *,
        temperature=TEMPERATURE,
        train_split=TRAIN,
        test_split=TEST,
        name=None,
        data_dir=None,
        download=False,
        **options,
    ):
        self.k = (k,) if isinstance(k, int) else tuple(k)
        if not self.k or min(self.k) < 1 or not temperature > 0:
            raise ValueError(
                f"`k` and `temperature` must be positive. Received: {k} and {temperature}"
            )
        self.temperature = temperature
        self.train_split, self.test_split = train_split, test_split
        super().__init__("knn", dataset, FeatureOptions(**options), name, data_dir, download)

    def run(self, model):
        """Evaluates a model.

        Args:
            model: a model of this package with a (B, F) feature before its head.

        Returns:
            A dict of "k20" and "k20/top5" for each k, shares of the test images.

        Raises:
            ValueError: for a model without features, a split that is not there, or more neighbours
                than training images.
        """
        num_train = self.data.info.num_examples(self.train_split)
        self.data.info.num_examples(self.test_split)
        if max(self.k) > num_train:
            raise ValueError(
                f"`k` must be at most the number of training images, {num_train}. Received: "
                f"{max(self.k)}"
            )
        train = self.data.read(model, self.train_split)
        features, labels = self.data.read(model, self.test_split)
        votes = knn_votes(
            *train, features, self.data.info.num_classes, self.k, temperature=self.temperature
        )
        metrics = {}
        for k, of_k in zip(self.k, votes, strict=True):
            metrics[f"k{k}"], metrics[f"k{k}/top5"] = knn_accuracies(of_k, labels, k)
        return metrics
