"""How much work an action is, in calls: a count that no other load on the machine changes."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable
from typing import Any


def num_calls(action: Callable[[], Any]) -> int:
    """Of Python functions and of C functions, while `action` runs; what others have hung on the
    garbage collector does not count."""
    counter = itertools.count()

    def count(_frame: Any, event: str, _argument: Any) -> None:
        if event in ("call", "c_call"):
            next(counter)

    gc.disable()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
        gc.enable()
    return next(counter)
