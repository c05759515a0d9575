"""Benchmarks. They compare within one run; nothing in the checks depends on their figures."""
