"""Reading ahead in threads of their own, a few images in hand whatever their number."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
IN_HAND = 4  # images that are read ahead, and results that wait to be written


class Readers:
    """Threads that work in the order of asking. One that hangs (a network file system may never
    answer) is left behind and replaced; it does not keep the program from ending."""

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._count = count
        for _ in range(count):
            self.replace()

    def replace(self) -> None:
        """Another thread, in place of one that hangs."""
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, work: Callable[[], R]) -> "Future[R]":
        """Begin some work when its turn comes."""
        future: Future[R] = Future()
        self._tasks.put((future, work))
        return future

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, work = task
            try:
                result = work()
            except BaseException as error:
                future.set_exception(
                    error.with_traceback(None)
                )  # whose frames would hold the image
            else:
                future.set_result(result)
                del result
            del task, future, work

    def __enter__(self) -> "Readers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for _ in range(self._count):
            self._tasks.put(None)


def ahead(
    readers: Readers, work: Callable[[T], R], items: Sequence[T], in_hand: int = IN_HAND
) -> Iterator[tuple[T, "Future[R]"]]:
    """Each item with its work, a few of them begun before they are asked for."""
    begun: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        begun.append((item, readers.submit(lambda item=item: work(item))))  # type: ignore[misc]
        if len(begun) > in_hand:
            yield begun.popleft()
    while begun:
        yield begun.popleft()
