"""Benchmarks: each prints a table and writes benchmarks/results/NAME.json with its targets; `make bench` runs all."""
