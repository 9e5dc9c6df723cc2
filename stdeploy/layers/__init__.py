"""The layers of the paper and the arithmetic that folds them."""
