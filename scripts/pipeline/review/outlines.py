"""Outlines of masks, exact to the pixel, as SVG paths."""

import numpy as np


def outline(mask: np.ndarray, left: int = 0, top: int = 0) -> str:
    """The outline of a bool mask, height x width, along the edges of its pixels: an SVG path to fill by "evenodd".

    In pixels; `left` and `top` are added, where the mask is a piece of a larger one. Holes are loops of their own.
    """
    x, y = _corners(mask)
    if not len(x):
        return ""
    # Along a line of corners, the first and the second are the ends of an edge, the third and the fourth, and so on.
    across, down = _partners(np.lexsort((x, y))), _partners(np.lexsort((y, x)))
    return "".join(_loops((x + left).tolist(), (y + top).tolist(), across, down))


def _corners(mask):
    """(x, y) of the corners of the outline; where two pixels touch by a corner alone, it counts twice."""
    padded = np.pad(mask, 1)
    upper, lower = padded[:-1], padded[1:]
    one, two, three, four = upper[:, :-1], upper[:, 1:], lower[:, :-1], lower[:, 1:]
    odd = one ^ two ^ three ^ four
    touching = (one ^ two) & (one == four) & (two == three)
    y, x = np.nonzero(odd)
    again_y, again_x = np.nonzero(touching)
    return np.concatenate([x, again_x, again_x]), np.concatenate([y, again_y, again_y])


def _partners(order):
    """The other end of the edge that begins at each corner; `order` sorts the corners along their lines."""
    partners = np.empty(len(order), int)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners.tolist()


def _loops(x, y, across, down):
    """A closed path for each loop: edges across and down by turns."""
    left = set(range(len(x)))
    while left:
        start = at = left.pop()
        path = [f"M{x[at]} {y[at]}"]
        while True:
            corner = across[at]
            after = down[corner]
            path.append(f"h{x[corner] - x[at]}v{y[after] - y[corner]}")
            left -= {corner, after}
            at = after
            if at == start:
                break
        yield "".join(path) + "z"
