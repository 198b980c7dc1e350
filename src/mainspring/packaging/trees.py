"""Decision trees of any library as one table of nodes, compared in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mainspring.packaging.graph import Array, Graph, Untranslatable

MAX_NODES = 3_000_000
_MEMBER = 6  # ONNX's number for "is one of"


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree: go left where value <= threshold; children below 0 are leaves, `~child` their index.

    Args:
        feature: Column compared at each inner node, shape (m,).
        threshold: What it is compared with, float64, shape (m,).
        missing_left: Whether a missing value goes left, shape (m,).
        left: Child for "yes", shape (m,).
        right: Child for "no", shape (m,).
        leaves: What each leaf adds to its target, shape (m + 1,).
        target: The score that the leaves add to.
        members: For nodes that ask for membership instead: the node and the values that go left, in order of nodes.
    """

    feature: Array
    threshold: Array
    missing_left: Array
    left: Array
    right: Array
    leaves: Array
    target: int = 0
    members: tuple[tuple[int, Array], ...] = ()


def sum_of_trees(graph: Graph, matrix: str, trees: list[Tree], targets: int, base: Array) -> str:
    """Add the ensemble and return its scores, shape (n, targets): `base` plus the leaf that each tree gives.

    The float64 form of the operator is exact: ONNX's older tree operators compare in float32, or answer in it.
    """
    if sum(tree.feature.size for tree in trees) > MAX_NODES:
        raise Untranslatable(f"the trees have more than {MAX_NODES:,} nodes")
    parts: list[dict[str, Array]] = []
    roots, nodes, leaves = [], 0, 0
    asking: list[int] = []
    members: list[Array] = []
    for tree in trees:
        tree = tree if tree.feature.size else _only_a_leaf(tree)
        roots.append(nodes)
        asking += [nodes + node for node, _ in tree.members]
        members += [np.append(values, np.nan) for _, values in tree.members]  # a NaN ends each node's list
        parts.append({
            "featureids": tree.feature, "splits": tree.threshold, "missing": tree.missing_left,
            **_children("true", tree.left, nodes, leaves), **_children("false", tree.right, nodes, leaves),
        })  # fmt: skip
        nodes += tree.feature.size
        leaves += tree.leaves.size
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    weights = np.concatenate([tree.leaves for tree in trees]).astype(np.float64)
    owners = np.concatenate([np.full(tree.leaves.size, tree.target, np.int64) for tree in trees])
    modes = np.zeros(nodes, np.uint8)
    modes[asking] = _MEMBER
    options = {"membership_values": np.concatenate(members)} if members else {}
    total = graph.add(
        "TreeEnsemble", matrix, domain="ai.onnx.ml", n_targets=targets, aggregate_function=1, post_transform=0,
        nodes_featureids=_ids(joined["featureids"]), nodes_splits=joined["splits"].astype(np.float64),
        nodes_modes=modes, nodes_missing_value_tracks_true=_ids(joined["missing"]),
        nodes_truenodeids=_ids(joined["true_id"]), nodes_trueleafs=_ids(joined["true_leaf"]),
        nodes_falsenodeids=_ids(joined["false_id"]), nodes_falseleafs=_ids(joined["false_leaf"]),
        leaf_targetids=_ids(owners), leaf_weights=weights, tree_roots=roots, **options,
    )  # fmt: skip
    return graph.add("Add", total, base.reshape(1, targets)) if base.any() else total


def _children(side: str, child: Array, nodes: int, leaves: int) -> dict[str, Array]:
    leaf = child < 0
    return {f"{side}_id": np.where(leaf, ~child + leaves, child + nodes), f"{side}_leaf": leaf}


def _ids(values: Array) -> list[int]:
    return [int(value) for value in values]


def _only_a_leaf(tree: Tree) -> Tree:
    # The operator wants a node at each root: one whose two ways lead to the same leaf.
    zero, leaf = np.zeros(1, np.int64), np.full(1, -1, np.int64)
    return Tree(zero, np.zeros(1), np.ones(1, bool), leaf, leaf, tree.leaves, tree.target)


def numbered(is_leaf: Array, left: Array, right: Array) -> tuple[Array, Array, Array]:
    """Return (inner, left, right): the inner nodes' rows, and their children in the numbering of `Tree`."""
    inner = np.flatnonzero(~is_leaf)
    number = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(~is_leaf) - 1)
    return inner, number[np.asarray(left)[inner]], number[np.asarray(right)[inner]]


def from_sklearn(tree: Any, *, values: Array, target: int = 0) -> Tree:
    """Return a fitted `sklearn.tree._tree.Tree` with `values`, shape (nodes,), as what its leaves add."""
    is_leaf = tree.children_left < 0
    inner, left, right = numbered(is_leaf, tree.children_left, tree.children_right)
    return Tree(
        feature=tree.feature[inner], threshold=tree.threshold[inner],
        missing_left=np.asarray(tree.missing_go_to_left)[inner].astype(bool), left=left, right=right,
        leaves=values[is_leaf], target=target,
    )  # fmt: skip


def set_bits(words: Array) -> Array:
    """Return the numbers whose bits are set in a bit set of 32-bit words, as float64."""
    bits = np.unpackbits(np.ascontiguousarray(words, dtype="<u4").view(np.uint8), bitorder="little")
    return np.flatnonzero(bits).astype(np.float64)


def from_histogram(nodes: Array, bitsets: Array, *, target: int = 0) -> Tree:
    """Return a tree of a fitted HistGradientBoosting model from its record array of nodes and its category sets."""
    is_leaf = nodes["is_leaf"].astype(bool)
    inner, left, right = numbered(is_leaf, nodes["left"], nodes["right"])
    rows = nodes[inner]
    asking = np.flatnonzero(rows["is_categorical"])
    return Tree(
        feature=rows["feature_idx"].astype(np.int64), threshold=rows["num_threshold"],
        missing_left=rows["missing_go_to_left"].astype(bool), left=left, right=right, leaves=nodes["value"][is_leaf],
        target=target,
        members=tuple((int(row), set_bits(bitsets[rows["bitset_idx"][row]])) for row in asking),
    )  # fmt: skip
