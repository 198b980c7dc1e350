"""The loop itself: train, prove, release, watch and heal."""
