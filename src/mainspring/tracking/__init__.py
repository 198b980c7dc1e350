"""Runs and their environment, kept in MLflow."""
