"""Training: data sets, recipes, the loop and the evaluation."""
