"""What the labels of a data set are, by the task that they are for.

| task | labels |
|---|---|
| `CLASSIFICATION` | one class an image, or each class's share |
| `MULTILABEL` | float (C,), 1 for each label that an image has, else 0 |
| `REGRESSION` | float (K,), the values of an image |
"""

CLASSIFICATION, MULTILABEL, REGRESSION = TASKS = ("classification", "multilabel", "regression")
