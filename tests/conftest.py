"""Hypothesis draws the same examples every time and has no deadline: machines are noisy."""

from hypothesis import settings

settings.register_profile("tightfit", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("tightfit")
