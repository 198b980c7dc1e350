"""What a window of production is measured by: drift of columns, figures of the endpoint."""

from __future__ import annotations

DRIFT_MEASURES = {
    "psi": "population stability index over ten bins; 0 is no change",
    "ks": "largest distance between the two cumulative distributions, 0 to 1",
    "js": "Jensen-Shannon distance over the fine bins, base 2, 0 to 1",
    "missing": "change of the share of rows without a value, 0 to 1",
    "unseen": "share of rows with a category that training never saw, 0 to 1",
}

ENDPOINT_FIGURES = {
    "error_rate": "share of requests that failed through no fault of the caller, 0 to 1",
    "refused_rate": "share of requests that were refused as wrong, 0 to 1",
    "p50": "median latency of a request in seconds",
    "p95": "latency that 95 % of requests stay under, in seconds",
    "p99": "latency that 99 % of requests stay under, in seconds",
    "requests": "requests in the window",
    "predictions": "predictions in the window",
}
