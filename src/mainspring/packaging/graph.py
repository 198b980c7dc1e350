"""A small graph of tensor operations, as plain data: what a model computes, before any file format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# A text tensor cannot hold "no value": a missing text is this one, from the private use area of Unicode.
MISSING = "\ue000missing"


class Untranslatable(Exception):
    """A model, or a part of it, has no exact form in the format that was tried: the next one is to be tried."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: ONNX name, inputs and output by name; attributes are numbers, lists, text or arrays."""

    op: str
    inputs: tuple[str, ...]
    output: str
    domain: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """One column of values: column `index` of a tensor of shape (n, width)."""

    tensor: str
    index: int
    width: int
    text: bool = False


Block = tuple[Slot, ...]


@dataclass(slots=True)
class Graph:
    """Operations in the order in which they run, all numbers float64; equal models build equal graphs.

    `refusals` holds tensors that turn NaN where the model itself would have raised: the scores of such a row become
    NaN too, never a made-up number.
    """

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)

    def add(self, op: str, *inputs: str | Array | float, domain: str = "", **attributes: Any) -> str:
        """Append an operation and return the name of its output; arrays among the inputs become constants."""
        names = tuple(each if isinstance(each, str) else self.constant(each) for each in inputs)
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(Node(op, names, output, domain, attributes))
        return output

    def constant(self, value: Array | float) -> str:
        array = np.asarray(value)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = array
        return name

    def matrix(self, block: Block) -> str:
        """Return one number tensor of shape (n, len(block)) with the block's columns in order."""
        if any(slot.text for slot in block):
            raise Untranslatable("a text column reaches a step that computes with numbers")
        return self.gather(block)

    def gather(self, block: Block) -> str:
        """Return one tensor of shape (n, len(block)); neighbours from one tensor are taken together."""
        runs: list[list[Slot]] = []
        for slot in block:
            if runs and runs[-1][-1].tensor == slot.tensor:
                runs[-1].append(slot)
            else:
                runs.append([slot])
        parts = [self._take(run) for run in runs]
        if not parts:
            raise Untranslatable("a step is left without columns")
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)

    def _take(self, run: list[Slot]) -> str:
        indices = [slot.index for slot in run]
        if indices == list(range(run[0].width)):
            return run[0].tensor
        return self.add("Gather", run[0].tensor, np.array(indices, np.int64), axis=1)

    def vector(self, slot: Slot) -> str:
        """Return one column as a tensor of shape (n,)."""
        return self.add("Gather", slot.tensor, np.array(slot.index, np.int64), axis=1)


def slots(tensor: str, width: int, *, text: bool = False) -> Block:
    """Return every column of a tensor of shape (n, width)."""
    return tuple(Slot(tensor, index, width, text) for index in range(width))


def per_column(value: Any, width: int) -> Array:
    """Return a constant of shape (1, width) from one value per column."""
    return np.asarray(value, np.float64).reshape(1, width)


def columns_of(block: Block, indices: Sequence[int]) -> Block:
    """Return the named columns of a block, in the order of the indices."""
    return tuple(block[index] for index in indices)
