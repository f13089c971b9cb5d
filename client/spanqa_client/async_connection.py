"""The steps of asking carried out by an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, TypeVar

from spanqa_client.connection import Opened
from spanqa_client.errors import ClientError
from spanqa_client.steps import CallFailed, Pause, Probe, Send, Steps

T = TypeVar("T")


class AioConnection(Opened):
    """Channels to one or several Triton servers, for one event loop; arguments as `Opened`."""

    _is_async = True
    _loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """Close the channels; calls in flight fail."""
        self._is_closed = True
        for channel, _ in self._opened.values():
            await channel.close()

    async def run(self, steps: Steps[T]) -> T:
        """Carry steps out.

        Args:
            steps: The steps.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise ClientError("the client belongs to another event loop: make one in each")
        with contextlib.closing(steps):
            value, failed = None, None
            while True:
                try:
                    step = steps.send(value) if failed is None else steps.throw(failed)
                except StopIteration as done:
                    result: T = done.value
                    return result
                value, failed = None, None
                try:
                    value = await self._perform(step)
                except CallFailed as error:
                    failed = error

    async def _perform(self, step: Send | Pause | Probe) -> Any:
        import grpc

        if isinstance(step, Pause):
            await asyncio.sleep(step.wait_s)
            return self._is_closed
        if isinstance(step, Probe):
            from spanqa_client.handshake import handshake_fault

            return await asyncio.to_thread(handshake_fault, step.server, self.settings, step.wait_s)
        stub = self.stub(step.server)
        try:
            return await step.send(stub, step.left_s)
        except grpc.RpcError as error:
            raise self.failure(error) from error
        except asyncio.CancelledError as error:
            # A channel that is closed cancels its calls; so does whoever waits for this one, and that goes on its way.
            if self._is_closed and not _is_cancelled():
                raise ClientError("the client was closed while it was asking") from error
            raise
        except grpc.aio.UsageError as error:
            if self._is_closed:
                raise ClientError("the client is closed: make a new one") from error
            raise


def _is_cancelled() -> bool:
    """Whether somebody cancels the task itself; before Python 3.11 none tells."""
    task: Any = asyncio.current_task()
    return bool(task and hasattr(task, "cancelling") and task.cancelling())
