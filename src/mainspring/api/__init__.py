"""Every operation once, and its projections over HTTP."""
