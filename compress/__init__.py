"""Carries a plan out: importance, pruning, quantisation, healing, checkpoints."""
