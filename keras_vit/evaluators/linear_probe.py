"""Linear probe: a linear classifier that is trained on a model's frozen features.

The definitions are rows of `keras_vit.evaluators.probe_training.PROTOCOLS`.

Legend: `N` images, `R` rates, `F` features, `C` classes.
"""

import dataclasses

import numpy as np

from keras_vit.data.splits import TEST, TRAIN, VALIDATION
from keras_vit.evaluators.features import FeatureEvaluator, FeatureOptions, feature_model
from keras_vit.evaluators.probe_training import PROTOCOLS, Protocol, make_probes

_BLOCK = 1024  # images that are scored at a time


def get_protocol(protocol, **changes):
    """A protocol by name, with some of its fields changed.

    Args:
        protocol: a name in `PROTOCOLS`, or a `Protocol`.
        **changes: fields; None leaves one as it is.  `epochs` replaces `steps` and the other way
            round.

    Raises:
        ValueError: for an unknown name, or a value out of range.
    """
    if not isinstance(protocol, Protocol):
        if protocol not in PROTOCOLS:
            raise ValueError(
                f"`protocol` must be one of {', '.join(PROTOCOLS)}. Received: {protocol!r}"
            )
        protocol = PROTOCOLS[protocol]
    changes = {name: value for name, value in changes.items() if value is not None}
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        if given in changes and other not in changes:
            changes[other] = None
    if "steps" in changes and changes["steps"] is not None:
        changes = {"warmup_epochs": 0, "falls_each": "step", **changes}
    elif changes.get("epochs") is not None and protocol.epochs:
        # A shorter training has a warm-up of the same share.
        share = protocol.warmup_epochs / protocol.epochs
        changes = {"warmup_epochs": int(share * changes["epochs"]), **changes}
    return dataclasses.replace(protocol, **changes)


def shuffled_batches(features, labels, batch_size, num_steps, seed=0):
    """Batches in a new order each epoch, the images that fill no batch left out.

    Args:
        features: (N, F).
        labels: integers (N,).
        batch_size: at most N.
        num_steps: number of batches.
        seed: of the orders.

    Yields:
        (features, labels) of a batch.
    """
    per_epoch = len(features) // batch_size
    for step in range(num_steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = np.random.default_rng([seed, epoch]).permutation(len(features))
        chosen = np.sort(order[place * batch_size : (place + 1) * batch_size])
        yield np.asarray(features[chosen], np.float32), labels[chosen]


def probe_accuracies(probes, features, labels):
    """Accuracy of each rate's classifier, float64 (R,)."""
    correct = 0
    for start in range(0, len(features), _BLOCK):
        rows = np.asarray(features[start : start + _BLOCK], np.float32)
        logits = np.asarray(probes.predict_on_batch(rows))  # (n, R, C)
        correct += (logits.argmax(axis=-1) == labels[start : start + _BLOCK, None]).sum(axis=0)
    return correct / len(features)


class LinearProbe(FeatureEvaluator):
    """Accuracy of a linear classifier on a model's features, as an evaluator.

    Of several rates, which are trained at once, the one that is best on the validation split is
    scored on the test split; of two alike the lower.

    Args:
        dataset: a name or folder, as `keras_vit.data.pipeline.resolve` takes it, or a
            `DatasetInfo`; None is the data set of the training that it is given to.
        protocol: a name in `PROTOCOLS`, or a `Protocol`.
        learning_rates, batch_size, epochs, steps: in the place of the protocol's.
        augmentation: a name in `keras_vit.data.images.preprocess.AUGMENTATIONS`: the features of
            augmented images are computed in every epoch, as in the public codes ("crop_flip");
            None trains on features that are computed once.
        train_split: the split to train on.
        validation_split: the split that chooses between several rates.
        test_split: the split that is scored.
        seed: of the classifiers, the order and the augmentation.
        name: under which the numbers are logged; None takes "linear/" and the data set's name.
        data_dir, download: as in `keras_vit.data.pipeline.resolve`.
        **options: of `keras_vit.evaluators.features.FeatureOptions`; `feature_batch_size` is its
            `batch_size`.
    """

    def __init__(
        self,
        dataset,
        protocol="dinov2",
        *,
        learning_rates=None,
        batch_size=None,
        epochs=None,
        steps=None,
        augmentation=None,
        train_split=TRAIN,
        validation_split=VALIDATION,
        test_split=TEST,
        seed=0,
        name=None,
        data_dir=None,
        download=False,
        feature_batch_size=64,
        **options,
    ):
        self.protocol = get_protocol(
            protocol,
            learning_rates=learning_rates,
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
        )
        self.augmentation = augmentation
        self.splits = (train_split, validation_split, test_split)
        self.seed = seed
        options = {"representation": self.protocol.representation, **options}
        options = FeatureOptions(batch_size=feature_batch_size, **options)
        super().__init__("linear", dataset, options, name, data_dir, download)

    def run(self, model):
        """Trains the classifiers and scores the chosen one.

        Args:
            model: a model of this package with a (B, F) feature before its head.

        Returns:
            A dict of "accuracy" on the test split and the chosen "learning_rate" (for a batch of
            256); where there are several rates also "validation_accuracy".

        Raises:
            ValueError: for a model without features, a split that is not there, or an image size
                or number of rates that do not fit.
        """
        info, rates = self.data.info, self.protocol.learning_rates
        train, validation, test = self.splits
        for split in (train, test):
            info.num_examples(split)
        if len(rates) > 1 and validation not in info.split_sizes:
            raise ValueError(
                "to choose between several rates there must be a validation split. Received: "
                f"{len(rates)} rates, and {info.name!r} with the splits "
                f"{', '.join(info.split_sizes)}; give one rate, or another `validation_split`"
            )
        probes = self._train(model)
        metrics, best = {}, 0
        if len(rates) > 1:
            accuracies = probe_accuracies(probes, *self.data.read(model, validation))
            order = np.argsort(rates, kind="stable")
            best = int(order[np.argmax(accuracies[order])])
            metrics["validation_accuracy"] = float(accuracies[best])
        accuracies = probe_accuracies(probes, *self.data.read(model, test))
        return {"accuracy": float(accuracies[best]), "learning_rate": rates[best], **metrics}

    def _train(self, model):
        info, train, protocol = self.data.info, self.splits[0], self.protocol
        num_images = info.num_examples(train)
        batch_size = min(protocol.batch_size, num_images)
        per_epoch = num_images // batch_size
        num_steps = protocol.num_steps(per_epoch)
        if self.augmentation is None:
            features, labels = self.data.read(model, train)
            num_features = features.shape[-1]
            batches = shuffled_batches(features, labels, batch_size, num_steps, self.seed)
        else:
            submodel = feature_model(model, self.data.options.representation)
            num_features = submodel.output_shape[-1]
            batches = self._augmented(submodel, model.preprocessing, batch_size, num_steps)
        probes = make_probes(
            protocol, num_features, info.num_classes, batch_size, per_epoch, self.seed
        )
        for batch in batches:
            probes.train_on_batch(*batch)
        kernels = np.asarray(probes.get_layer("probes").get_weights()[0])
        if not np.isfinite(kernels).all(axis=(1, 2)).any():
            raise ValueError(
                "a probe's rates must be small enough for its weights to stay finite. Received: "
                f"{protocol.learning_rates}"
            )
        return probes

    def _augmented(self, submodel, preprocessing, batch_size, num_steps):
        from keras_vit.data import pipeline

        batches = pipeline.training_dataset(
            self.data.info,
            self.splits[0],
            preprocessing,
            batch_size=batch_size,
            seed=self.seed,
            augmentation=self.augmentation,
        )
        size = self.data.options.batch_size
        for images, labels in batches.take(num_steps).as_numpy_iterator():
            parts = [
                submodel.predict_on_batch(images[start : start + size])
                for start in range(0, len(images), size)
            ]
            yield np.concatenate(parts).astype(np.float32), labels
