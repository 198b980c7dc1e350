"""Seeded fitting, hyper-parameter search and baselines."""
