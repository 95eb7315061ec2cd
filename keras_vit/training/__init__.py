"""Training: recipes as data, and runs whose loop is `model.fit`."""
