"""Segments: the stretches of a span in which nothing about one GPU changes. Metering is a sum over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.core.cluster import Fleet, IntArray, Level
from scheduler.core.intervals import Interval
from scheduler.core.metering.cells import cell_causes, cell_of_gpu
from scheduler.core.metering.fleet_history import FleetHistory
from scheduler.core.metering.history import FieldHistory


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Parallel arrays, (n_segments) int64 each; `length_ms` is 0 before the GPU joined, and counts from `start_ms`."""

    gpu: IntArray
    start_ms: IntArray
    length_ms: IntArray
    owner: IntArray
    cause: IntArray
    occupant: IntArray
    performance: IntArray
    late: IntArray
    cell_cause: IntArray
    """The cause of the whole cell that the owner's lots ask for; 0 where they ask for GPUs."""
    age: IntArray
    """How long what is ill has been so, as `Graces` counts it: of the owner's cell, or of the GPU."""


def cut(
    history: FleetHistory,
    fleet: Fleet,
    span: Interval,
    level_of_owner: IntArray,
    causes: FieldHistory | None = None,
    ages: FieldHistory | None = None,
) -> Segments:
    """The fleet's segments in a span. `level_of_owner[p + 1]`: the cell level of position p's lots; [0]: of no
    position. `causes`: what stands for the history's own; `ages`: how long what is ill has been so.
    """
    ill = history.cause if causes is None else causes
    fields = [ill if each is history.cause else each for each in history.of_gpus]
    fields += [] if ages is None else [ages]
    initial = [each.at(span.start_ms) for each in fields]
    rows = [each.between(span.start_ms, span.end_ms) for each in fields]
    width = span.length_ms
    row_keys = [gpus * width + (instants - span.start_ms) for instants, gpus, _ in rows]
    cells = []
    for level in sorted(set(level_of_owner.tolist()) - {int(Level.GPU)}):
        cell_of = cell_of_gpu(fleet, Level(level))
        of_cells = cell_causes(ill, cell_of, span)
        if of_cells is not None:
            cells.append((level, of_cells, None if ages is None else cell_causes(ages, cell_of, span)))
    cut_keys = []
    for level, *both in cells:
        asking = _owned_at_level(initial[0], rows[0], level_of_owner, level)
        for of_level in both:
            if of_level is not None:
                gpus, offsets = of_level.cuts(asking)
                cut_keys.append(gpus * width + offsets)
    keys = np.concatenate([*row_keys, *cut_keys])
    calm = np.ones(history.n_gpus, dtype=np.bool_)
    calm[keys // width] = False
    still, changed = np.flatnonzero(calm), np.flatnonzero(~calm)
    keys = np.union1d(keys, changed * width)

    gpu = np.concatenate([keys // width, still])
    start = np.concatenate([keys % width, np.zeros(len(still), dtype=np.int64)])
    end = np.concatenate([_ends(keys, width), np.full(len(still), width, dtype=np.int64)])
    owner, cause, occupant, performance, late, *of_ages = (
        np.concatenate([_filled(keys, width, own, own_keys, own_rows[2]), own[still]])
        for own, own_keys, own_rows in zip(initial, row_keys, rows, strict=True)
    )
    level_of_segment = level_of_owner[owner + 1]
    cell_cause = np.zeros(len(gpu), dtype=np.int64)
    age = of_ages[0] if of_ages else np.zeros_like(cell_cause)
    for level, of_cells, of_cell_ages in cells:
        at_level = np.flatnonzero(level_of_segment == level)
        cell_cause[at_level] = of_cells.at(gpu[at_level], start[at_level])
        if of_cell_ages is not None:
            age[at_level] = of_cell_ages.at(gpu[at_level], start[at_level])
    lived = np.maximum(0, end - np.maximum(start, history.joined_ms[gpu] - span.start_ms))
    return Segments(gpu, span.start_ms + end - lived, lived, owner, cause, occupant, performance, late, cell_cause, age)


def _owned_at_level(owners: IntArray, rows: IntArray, level_of_owner: IntArray, level: int) -> IntArray:
    asking = level_of_owner[owners + 1] == level
    _, gpus, later = rows
    asking[gpus[level_of_owner[later + 1] == level]] = True
    return np.flatnonzero(asking)


def _ends(keys: IntArray, width: int) -> IntArray:
    """Where each segment ends: where the next of its GPU begins, or with the span."""
    ends = np.full(len(keys), width, dtype=np.int64)
    followed = np.flatnonzero(keys[1:] // width == keys[:-1] // width)
    ends[followed] = keys[followed + 1] % width
    return ends


def _filled(keys: IntArray, width: int, initial: IntArray, row_keys: IntArray, row_values: IntArray) -> IntArray:
    """A field's value in each segment: its last row's at or before the segment's start, else the initial one."""
    values = np.zeros(len(keys), dtype=np.int64)
    known = keys % width == 0
    values[known] = initial[keys[known] // width]
    where = np.searchsorted(keys, row_keys)
    values[where] = row_values  # rows are in order: of several at one instant the last told is assigned
    known[where] = True
    return values[np.maximum.accumulate(np.where(known, np.arange(len(keys)), 0))]
