"""Feature definitions that run the same in training and serving."""
