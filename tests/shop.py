"""A small project that trains in a second: its file and its data."""

from __future__ import annotations

import numpy as np
import polars as pl

PROJECT = """
import mainspring as ms

shop = ms.Project("shop", owner="team-a")
visits = shop.dataset("visits.csv", key="id")


@shop.feature
def value_per_page(request):
    return request.basket / (request.pages + 1.0)


@shop.model(predicts=visits["bought"], uses=[visits["basket"], visits["pages"], value_per_page])
def buyer(X, y, C=1.0):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C).fit(X, y)


buyer.must(ms.gate.parity(), ms.gate.at_least("roc_auc", 0.6))
buyer.serve()
"""


def visits(n: int = 400, seed: int = 0) -> pl.DataFrame:
    """Return visits whose purchase depends on basket and pages."""
    random = np.random.default_rng(seed)
    basket, pages = random.gamma(2, 30, n).round(2), random.integers(1, 20, n)
    bought = random.random(n) < 1 / (1 + np.exp(4 - basket / 25 - pages / 8))
    names = np.where(bought, "yes", "no")
    return pl.DataFrame({"id": [f"v{i}" for i in range(n)], "basket": basket, "pages": pages, "bought": names})
