"""Anatomy adapters and loading."""
