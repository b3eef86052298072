"""Forests: trees as flat tables made when compiling, and the routines that take rows through them."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import expr as ex
from ..dtypes import DType
from ..expr import Tensor
from ..loops import Routine, load, store
from .base import Lowering

MODES = {"LEAF": -1, "BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_GTE": 2, "BRANCH_GT": 3, "BRANCH_EQ": 4, "BRANCH_NEQ": 5, "BRANCH_MEMBER": 6}
SUM, MINIMUM, MAXIMUM = 0, 1, 2
ROWS = 16  # rows of one unit where trees branch in several ways
BLOCK = 64  # rows of one unit that go through a tree while its nodes are in the nearest cache
STRIDE = 4  # levels that rows descend before they are asked whether all have reached a leaf
AGGREGATE, MODE, MISSING, SINGLE = 0, 0, False, False  # what a call's constants stand for


@dataclass(frozen=True)
class Forest:
    """Trees as tables: nodes by position, leaves as nodes of mode -1 with a range of (target, weight) entries.

    Args:
        features, modes, values, yes, no, missing: of each node; `yes` and `no` are positions of nodes, of a leaf the range of its entries. A membership
            node's value is the position of its first set member; the count stands in `missing` above bit 0.
        targets, weights: entries of leaves.
        members: values of the sets of membership nodes.
        roots: positions of the trees' roots.
    """

    features: np.ndarray
    modes: np.ndarray
    values: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    missing: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    members: np.ndarray
    roots: np.ndarray


@dataclass(frozen=True)
class Layout:
    """The nodes of a forest, tree by tree and level by level, so that a branch's `no` follows its `yes`.

    Args:
        nodes: positions in the forest.
        children: of each node its `yes` in this order; of leaves whatever makes a step end where it began.
        starts, depths: the position of each tree's root and the number of its levels below the root.
    """

    nodes: np.ndarray
    children: np.ndarray
    starts: np.ndarray
    depths: np.ndarray


def lay_out(forest: Forest) -> Layout | None:
    """Nodes that several branches lead to are repeated; None where that would make more nodes than there are (trees that share nodes, cycles)."""
    trees = np.arange(len(forest.roots))
    nodes, owners, depths = forest.roots, trees, np.zeros(len(trees), np.int64)
    levels, firsts, total = [], [], 0
    while nodes.size:
        branch = forest.modes[nodes] >= 0
        following = total + nodes.size
        if following > len(forest.modes):
            return None
        child = np.full(nodes.size, -1)
        child[branch] = following + 2 * np.arange(int(branch.sum()))
        levels.append((nodes, owners))
        firsts.append(child)
        total, parents, owners = following, nodes[branch], np.repeat(owners[branch], 2)
        nodes = np.stack([forest.yes[parents], forest.no[parents]], 1).reshape(-1)
        depths[owners] += 0 if not owners.size else 1
    if not levels:
        return None
    all_nodes, all_owners = (np.concatenate(part) for part in zip(*levels, strict=True))
    order = np.argsort(all_owners, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    child = np.concatenate(firsts)[order]
    return Layout(all_nodes[order], np.where(child >= 0, place[child], -1), np.searchsorted(all_owners[order], trees), depths)


def aggregate(y, to, w, tree):
    """Take one leaf weight of tree `tree` into y[to]."""
    if AGGREGATE == 0:
        store(y, to, load(y, to) + w)
    elif AGGREGATE == 1:
        if tree == 0 or w < load(y, to):
            store(y, to, w)
    elif tree == 0 or w > load(y, to):
        store(y, to, w)


def chosen(v, limit, mode):
    """Whether a branch of a mode other than membership is taken."""
    if mode == 0:
        taken = v <= limit
    elif mode == 1:
        taken = v < limit
    elif mode == 2:
        taken = v >= limit
    elif mode == 3:
        taken = v > limit
    elif mode == 4:
        taken = v == limit
    else:
        taken = v != limit
    return taken


def step(x, features, limits, children, base, at):
    """The node below `at` for the row at `base`; a leaf, whose limit no comparison finds true, leads to itself."""
    feature = load(features, at)
    v = load(x, base + (feature >> 1 if MISSING else feature))
    limit = load(limits, at)
    taken = chosen(v, limit, MODE)
    if MISSING:
        taken = taken | ((v != v) & ((feature & 1) != 0))
    return int(load(children, at)) + (0 if taken else 1)


def arrive(ends, targets, weights, y, base, at, tree):
    """Take the entries of leaf `at` into the row of y at `base`."""
    if SINGLE:
        store(y, base, load(y, base) + load(weights, at))
    else:
        for k in range(load(ends, 2 * at), load(ends, 2 * at + 1)):
            aggregate(y, base + load(targets, k), load(weights, k), tree)


def walk_blocks(x, features, limits, children, starts, depths, ends, targets, weights, y, rows, columns, trees, outputs, lo, hi):
    """y[row, target] as of `walk_trees`, for trees that branch in one way: a block of rows goes through a tree before the next, eight rows in step."""
    for unit in range(lo, hi):
        first = unit * BLOCK
        last = min(first + BLOCK, rows)
        for k in range(first * outputs, last * outputs):
            store(y, k, 0)
        for tree in range(trees):
            root = int(load(starts, tree))
            depth = int(load(depths, tree))
            row = first
            while row + 8 <= last:
                base = row * columns
                a = b = c = d = e = f = g = h = root
                left = depth
                while left > 0:
                    for _ in range(min(left, STRIDE)):
                        a = step(x, features, limits, children, base, a)
                        b = step(x, features, limits, children, base + columns, b)
                        c = step(x, features, limits, children, base + 2 * columns, c)
                        d = step(x, features, limits, children, base + 3 * columns, d)
                        e = step(x, features, limits, children, base + 4 * columns, e)
                        f = step(x, features, limits, children, base + 5 * columns, f)
                        g = step(x, features, limits, children, base + 6 * columns, g)
                        h = step(x, features, limits, children, base + 7 * columns, h)
                    left -= STRIDE
                    if left > 0:
                        p = (load(children, a) <= a) & (load(children, b) <= b) & (load(children, c) <= c) & (load(children, d) <= d)
                        q = (load(children, e) <= e) & (load(children, f) <= f) & (load(children, g) <= g) & (load(children, h) <= h)
                        if p & q:
                            left = 0
                arrive(ends, targets, weights, y, row * outputs, a, tree)
                arrive(ends, targets, weights, y, (row + 1) * outputs, b, tree)
                arrive(ends, targets, weights, y, (row + 2) * outputs, c, tree)
                arrive(ends, targets, weights, y, (row + 3) * outputs, d, tree)
                arrive(ends, targets, weights, y, (row + 4) * outputs, e, tree)
                arrive(ends, targets, weights, y, (row + 5) * outputs, f, tree)
                arrive(ends, targets, weights, y, (row + 6) * outputs, g, tree)
                arrive(ends, targets, weights, y, (row + 7) * outputs, h, tree)
                row += 8
            while row < last:
                at = root
                left = depth
                while left > 0:
                    for _ in range(min(left, STRIDE)):
                        at = step(x, features, limits, children, row * columns, at)
                    left -= STRIDE
                    if left > 0 and load(children, at) <= at:
                        left = 0
                arrive(ends, targets, weights, y, row * outputs, at, tree)
                row += 1


def walk_trees(x, features, modes, values, links, missing, targets, weights, members, roots, y, rows, columns, trees, outputs, lo, hi):
    """y[row, target]: sum, minimum or maximum of the weights of the leaves that a row reaches; 0 where it reaches none."""
    for unit in range(lo, hi):
        for row in range(unit * ROWS, min(unit * ROWS + ROWS, rows)):
            base = row * outputs
            for j in range(outputs):
                store(y, base + j, 0)
            for tree in range(trees):
                at = load(roots, tree)
                mode = load(modes, at)
                while mode >= 0:
                    v = load(x, row * columns + load(features, at))
                    limit = load(values, at)
                    flags = load(missing, at)
                    if v != v:
                        taken = flags % 2 == 1 or mode == 5
                    elif mode < 6:
                        taken = chosen(v, limit, mode)
                    else:
                        taken = False
                        first = int(limit)
                        for k in range(first, first + flags // 2):
                            if load(members, k) == v:
                                taken = True
                    at = load(links, 2 * at) if taken else load(links, 2 * at + 1)
                    mode = load(modes, at)
                for k in range(load(links, 2 * at), load(links, 2 * at + 1)):
                    aggregate(y, base + load(targets, k), load(weights, k), tree)


WALK_TREES = Routine("walk_trees", walk_trees, (aggregate, chosen))
WALK_BLOCKS = Routine("walk_blocks", walk_blocks, (aggregate, chosen, step, arrive))


def evaluate_forest(n: Lowering, x: Tensor, forest: Forest, outputs: int, how: int, kind: DType) -> Tensor:
    """[rows, outputs] of `kind`: the leaf weights, aggregated as `how` says.

    Raises:
        ModelError: a feature that rows do not have, or a target that the result does not have.
    """
    if x.rank not in (1, 2):
        raise n.error(f"an input of rank {x.rank} was given, [rows, features] was expected")
    if forest.targets.size and not 0 <= forest.targets.min() <= forest.targets.max() < outputs:
        raise n.error(f"leaves have weights for targets {forest.targets.min()} to {forest.targets.max()}, of {outputs}")
    matrix = n.map(x.shape if x.rank == 2 else (1, *x.shape), lambda i, j: x[i, j] if x.rank == 2 else x[j], kind)
    rows, columns = matrix.shape
    used = forest.features[forest.modes >= 0]
    if used.size:
        if used.min() < 0:
            raise n.error(f"a node compares feature {used.min()}")
        n.require(columns > int(used.max()), f"nodes compare feature {used.max()}, but rows have fewer features")
    modes = np.unique(forest.modes[forest.modes >= 0])
    layout = lay_out(forest) if modes.size <= 1 and MODES["BRANCH_MEMBER"] not in modes else None
    if layout is not None:
        return _in_blocks(n, matrix, forest, layout, outputs, how, int(modes[0]) if modes.size else 0)

    integers, numbers = _tables(n, kind)
    links = np.stack([forest.yes, forest.no], 1).reshape(-1)
    inputs = [matrix, integers(forest.features), integers(forest.modes), numbers(forest.values), integers(links), integers(forest.missing), integers(forest.targets),
              numbers(forest.weights), numbers(forest.members), integers(forest.roots)]
    return n.routine(WALK_TREES, inputs, [(kind, (rows, outputs))], [rows, columns, len(forest.roots), outputs], units=ex.ceildiv(rows, ROWS),
                     constants={"AGGREGATE": how})[0]


def _tables(n: Lowering, kind: DType) -> tuple[Callable[[np.ndarray], Tensor], Callable[[np.ndarray], Tensor]]:
    """Makers of constants of int32 and of `kind`, of one element at least."""
    def table(values: np.ndarray, dtype: np.dtype) -> Tensor:
        return n.constant(np.ascontiguousarray(values if values.size else np.zeros(1), dtype))
    return (lambda values: table(values, np.dtype(np.int32))), (lambda values: table(values, kind.numpy))


def _in_blocks(n: Lowering, matrix: Tensor, forest: Forest, layout: Layout, outputs: int, how: int, mode: int) -> Tensor:
    """The call of `walk_blocks`: leaves compare with NaN, which holds only of `not equal`, and their child is set to what leads back to them then."""
    at, kind = layout.nodes, matrix.dtype
    leaf = forest.modes[at] < 0
    missing = bool((forest.missing[at][~leaf] & 1).any())
    features = np.where(leaf, 0, forest.features[at])
    if missing:
        features = 2 * features + np.where(leaf, 0, forest.missing[at] & 1)
    children = np.where(leaf, np.arange(at.size) - (mode != MODES["BRANCH_NEQ"]), layout.children)
    firsts, lasts = (np.where(leaf, link[at], 0) for link in (forest.yes, forest.no))
    single = how == SUM and outputs == 1 and int((lasts - firsts).max()) <= 1
    if single:
        found = np.append(forest.weights, 0.0)
        ends, targets, weights = (np.zeros(1), np.zeros(1), np.where(lasts > firsts, found[firsts], 0.0))
    else:
        ends, targets, weights = np.stack([firsts, lasts], 1).reshape(-1), forest.targets, forest.weights
    integers, numbers = _tables(n, kind)
    inputs = [matrix, integers(features), numbers(np.where(leaf, np.nan, forest.values[at])), integers(children), integers(layout.starts), integers(layout.depths),
              integers(ends), integers(targets), numbers(weights)]
    rows, columns = matrix.shape
    return n.routine(WALK_BLOCKS, inputs, [(kind, (rows, outputs))], [rows, columns, len(forest.roots), outputs], units=ex.ceildiv(rows, BLOCK),
                     constants={"AGGREGATE": how, "MODE": mode, "MISSING": missing, "SINGLE": single})[0]
