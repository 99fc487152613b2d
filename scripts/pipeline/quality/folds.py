"""Folds that keep whole groups of images on one side, made from the official ones so that results stay comparable."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

SLACK = 0.001  # of a fold's images: so many of a class may be there beyond its official number, or be missing


class Row(NamedTuple):
    """An image to be put into a fold."""

    image_id: str
    label: int
    official: int  # its official fold
    group: str | None  # of images that must stay together; None alone


class Grouped(NamedTuple):
    """Folds by image id, and what to tell of them."""

    folds: dict[str, int]
    moved: list[str]  # images whose fold is not their official one
    changed: list[str]  # images whose fold is not that of the version before


def group_folds(rows: Iterable[Row], number: int, before: Mapping[str, int]) -> Grouped:
    """The fold of each row, 0 to `number` - 1: that of its group.

    A group goes where most of its rows are officially, or were in the version `before` ({image id: fold}). Where a
    class then has too many or too few images in a fold (see SLACK), single images of it change folds, and where there
    are none, whole groups. Of the version before no row changes its fold, but where a new one joins its group with
    another.
    """
    rows = sorted(rows)
    units = _units(rows)
    balance = _Balance(rows, number)
    folds = {}
    for unit in sorted(units, key=lambda unit: (-len(unit), unit)):  # small ones last, to even out what large ones do
        for row in unit:
            balance.add([row], row.official, -1)
        folds[unit] = balance.best(unit, _votes(unit, before))
        balance.add(unit, folds[unit], 1)
    movable = [unit for unit in sorted(units, key=len) if not any(row.image_id in before for row in unit)]
    _repair(movable, folds, balance, number)
    of = {row.image_id: fold for unit, fold in folds.items() for row in unit}
    moved = [row.image_id for row in rows if of[row.image_id] != row.official]
    changed = [row.image_id for row in rows if before.get(row.image_id, of[row.image_id]) != of[row.image_id]]
    return Grouped(of, moved, changed)


def _units(rows):
    """The rows that stay together: groups, and single images."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.group or row.image_id].append(row)
    return [tuple(unit) for unit in groups.values()]


def _votes(unit, before):
    """The folds where most rows of a unit are."""
    votes = Counter(before[row.image_id] for row in unit if row.image_id in before)
    votes = votes or Counter(row.official for row in unit)
    return [fold for fold, rows in sorted(votes.items()) if rows == max(votes.values())]


class _Balance:
    """How many images of each class a fold has beyond its official number."""

    def __init__(self, rows, number):
        self.official = Counter((row.label, row.official) for row in rows)
        self.slack = len(rows) / number * SLACK
        self.beyond = Counter()

    def add(self, unit, fold, times):
        for row in unit:
            self.beyond[row.label, fold] += times

    def cost(self, unit, fold, slack=0):
        """By how much a unit more in a fold changes the sum of the squared differences from the official numbers."""
        return sum(
            self._off(label, fold, images, slack) - self._off(label, fold, 0, slack)
            for label, images in Counter(row.label for row in unit).items()
        )

    def _off(self, label, fold, images, slack):
        # In a small class every image counts.
        allowed = slack and min(self.slack, self.official[label, fold] // 10)
        return max(abs(self.beyond[label, fold] + images) - allowed, 0) ** 2

    def best(self, unit, folds):
        return min(folds, key=lambda fold: (self.cost(unit, fold), fold))


def _repair(units, folds, balance, number):
    """Moves units, small ones first, as long as that brings classes closer to their official numbers."""
    better = True
    while better:
        better = False
        for unit in units:
            here = folds[unit]
            balance.add(unit, here, -1)
            best = balance.best(unit, range(number))
            if balance.cost(unit, best, slack=1) < balance.cost(unit, here, slack=1):
                folds[unit] = best
            better |= folds[unit] != here
            balance.add(unit, folds[unit], 1)


def without_leaks(groups: Mapping[str, str | None], sides: Mapping[str, str]) -> dict[str, str]:
    """The `sides` of images, {image id: side}, less the fewest images so that no group is on more than one.

    Of two sides with as many images of a group, the one that comes first by name keeps none: "train" before
    "validation", so that results on the latter stay comparable. `groups` is {image id: group}.
    """
    members = defaultdict(lambda: defaultdict(list))
    for image_id, side in sides.items():
        members[groups.get(image_id) or image_id][side].append(image_id)
    kept = {}
    for by_side in members.values():
        side = max(by_side, key=lambda side: (len(by_side[side]), side))
        kept |= dict.fromkeys(by_side[side], side)
    return kept
