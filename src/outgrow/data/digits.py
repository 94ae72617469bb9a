"""The 1,797 handwritten digits that come with scikit-learn: real data that needs no download."""

import numpy as np

from outgrow.data.found import Found, labelled

_DARKEST = 16  # pixels are counts of dark cells in blocks of 4 x 4


def find_digits() -> Found:
    """Read the digits.

    Returns:
        Grey images `[1797, 1, 8, 8]`, their values 0..16 scaled to 0..255, with their labels.
    """
    from sklearn.datasets import load_digits

    stored = load_digits()
    x = np.rint(stored.images * (255 / _DARKEST)).astype(np.uint8)[:, None]
    classes, splits = labelled("digits", train=(x, stored.target))
    description = {"layout": "digits", "paths": {}, "classes": list(classes)}
    return Found("digits", "digits", "classification", splits["train"], classes, False, description)
