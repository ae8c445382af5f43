"""Work that must come to its end once it has begun, also when whoever waits for it is cancelled, and more than once.

A start is cancelled by each call that ends its domain. What is undone afterwards must not be overtaken by a thread
that is still at it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def completed(work: Coroutine[Any, Any, T]) -> T:
    """Wait until `work` is done; only then raise that we were cancelled."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run `work` in a thread, to its end."""
    return await completed(asyncio.to_thread(work, *arguments))
