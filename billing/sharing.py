"""How one number is shared among several: the parts are whole and sum exactly to it. Pure.

A provider counts the tokens of a batch as one number; each request in it is charged its share.
"""

from __future__ import annotations

from collections.abc import Sequence


def split_exactly(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in proportion to `weights`, by largest remainder; of equal remainders the first goes first.

    No part is further than one from its exact share. Weights that are all 0 count as equal; without weights there must
    be nothing to share.
    """
    if total < 0 or any(weight < 0 for weight in weights):
        raise ValueError("a total and weights are 0 or more")
    if not weights:
        if total:
            raise ValueError("there is nobody to share with")
        return []
    whole = sum(weights)
    shares = weights if whole else [1] * len(weights)
    whole = whole or len(weights)
    parts = [total * share // whole for share in shares]
    left = total - sum(parts)
    by_remainder = sorted(range(len(shares)), key=lambda index: -(total * shares[index] % whole))
    for index in by_remainder[:left]:
        parts[index] += 1
    return parts
