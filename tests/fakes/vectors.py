"""What the fakes of Bedrock, Gemini and Vertex compute: a vector for a text, and how many tokens it has.

A vector depends on model, task and text alone. The native one has unit length; a narrower one is its cut.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def native_vector(model: str, text: str, width: int, task: str = "") -> NDArray[np.float32]:
    seed = hashlib.sha256(repr((model, task, text)).encode()).digest()
    drawn = np.random.Generator(np.random.PCG64(int.from_bytes(seed))).standard_normal(width)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.linalg.norm(vector)


def turned(vector: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """A unit vector turned towards a direction at right angles to it."""
    if not degrees:
        return vector
    aside = np.roll(vector, 1) - np.dot(np.roll(vector, 1), vector) * vector
    angle = np.radians(degrees)
    return (np.cos(angle) * vector + np.sin(angle) * aside / np.linalg.norm(aside)).astype(np.float32)


def count_tokens(text: str) -> int:
    """Not any vendor's tokenizer: about four bytes a token."""
    return -(-len(text.encode()) // 4)
