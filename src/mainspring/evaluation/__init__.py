"""Metrics with intervals, slices, gates and the evaluation report."""
