"""Versioned tables: sources, contracts, profiles, splits and the leakage sentinel."""
