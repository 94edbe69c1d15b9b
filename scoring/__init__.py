"""Full evaluation: translation and its metrics."""
