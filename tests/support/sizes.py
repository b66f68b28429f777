"""The memory that objects take."""

import gc
import sys
from types import FunctionType, ModuleType

__all__ = ["bytes_of"]


def bytes_of(root: object) -> int:
    """Return the bytes of an object and of all that it refers to, classes and modules aside."""
    seen, waiting, total = set[int](), [root], 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        waiting += gc.get_referents(each)
    return total
