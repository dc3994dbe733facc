"""A row's forward pass that halts: before each layer, and before each linear module of a layer.

What a model does between its linear modules, and between its layers, is whatever its own code does: attention, norms,
masks, soft caps. Only a thread can be halted in the midst of that code, so each pass has one. It runs while
`HaltedPass.advance` waits for it, and at no other time.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

_running = threading.local()


class _EndedError(BaseException):
    """Unwinds the thread of a pass that nobody wants any more; no code of a model may catch it."""


class HaltedPass:
    """One forward pass, in a thread of its own.

    Attributes:
        module: Before which it halts; None before it begins and once it is done.
        input: What a linear module is given.
        result: What `forward` returned, once it is done.
    """

    def __init__(self, forward: Callable[[], torch.Tensor]) -> None:
        self.module: nn.Module | None = None
        self.input: torch.Tensor | None = None
        self.result: torch.Tensor | None = None
        self._forward = forward
        self._go, self._halted = threading.Semaphore(0), threading.Semaphore(0)
        self._given: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._thread: threading.Thread | None = None

    def advance(self, given: torch.Tensor | None = None) -> None:
        """Go on until it halts again, or is done; what the model raises is raised here.

        Args:
            given: Where it halts before a linear module, what that makes of the input.
        """
        self._given = given
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="dem-pass", daemon=True)
            self._thread.start()
        self._go.release()
        self._halted.acquire()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """End it where it is, and free what it holds."""
        self._ended = True
        if self._thread is not None:
            self._go.release()
            self._thread.join()

    def halt(self, module: nn.Module, value: torch.Tensor | None) -> torch.Tensor | None:
        """Called by the pass itself; returns what it is given."""
        self.module, self.input = module, value
        self._halted.release()
        self._go.acquire()
        if self._ended:
            raise _EndedError
        given, self._given = self._given, None
        self.module = self.input = None
        return given

    def _work(self) -> None:
        _running.now = self
        self._go.acquire()
        try:
            if not self._ended:
                self.result = self._forward()
        except _EndedError:
            pass
        except BaseException as error:  # noqa: BLE001  raised where the pass is advanced
            self._error = error
        self.module = self.input = None
        self._halted.release()


def halt_before(layer: Any) -> None:
    """Have every pass halt before this layer. Its `forward` is replaced, in this object alone."""
    forward = layer.forward

    def halting(*args: Any, **kwargs: Any) -> Any:
        _running.now.halt(layer, None)
        return forward(*args, **kwargs)

    layer.forward = halting


def halt_for(linear: Any) -> None:
    """Have every pass halt before this linear module and be given what that makes of its input, [tokens, outputs].

    The product itself is not the pass's: of the rows of several together it is faster, and libraries keep some
    megabytes for each thread and for each shape that they computed one of.
    """

    def halting(values: torch.Tensor) -> torch.Tensor:
        given: torch.Tensor = _running.now.halt(linear, values)
        return given.view(*values.shape[:-1], -1)

    linear.forward = halting
