"""What may change in a model and what it weighs; needs no torch, transformers or ray."""
