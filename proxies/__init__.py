"""Cheap scores of a plan."""
