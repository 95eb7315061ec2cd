"""Which pictures look like each other: nearest neighbours over `keras-vit features`.

keras-vit features augreg/Ti_16 photos/ --output=features.npz
python examples/nearest_neighbours.py features.npz --query=photos/cat.jpg --number=5
"""

import argparse

import numpy as np


def neighbours(features, query, number):
    """The pictures whose features point into the direction of the query's.

    Args:
        features: (n, D), or (n, h, w, D), which is averaged over the grid.
        query: Index of the query in [0, n).
        number: Number of pictures.

    Returns:
        `(indices, cosines)`, the most alike first, without the query.
    """
    vectors = features.astype(np.float32).reshape(len(features), -1, features.shape[-1]).mean(1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = vectors @ vectors[query]
    order = [index for index in np.argsort(-cosines, kind="stable") if index != query]
    return order[:number], cosines[order[:number]]


def main(arguments=None):
    """Prints the neighbours of one picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", help="what `keras-vit features --output=FILE.npz` wrote")
    parser.add_argument("--query", required=True, help="one of its paths")
    parser.add_argument("--number", type=int, default=5)
    given = parser.parse_args(arguments)
    with np.load(given.features, allow_pickle=False) as file:
        features, paths = file["features"], file["paths"].tolist()
    if given.query not in paths:
        parser.error(f"{given.query} is none of the {len(paths)} paths, such as {paths[0]}")
    found = neighbours(features, paths.index(given.query), given.number)
    for index, cosine in zip(*found, strict=True):
        print(f"{cosine:.4f}  {paths[index]}")


if __name__ == "__main__":
    main()
