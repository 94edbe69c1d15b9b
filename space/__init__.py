"""What may change in a model and what it weighs; needs no torch, transformers or ray."""

VERSION = "0.1.0"
