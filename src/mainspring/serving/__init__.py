"""The data plane: bundles that answer predictions over HTTP."""
