"""How often a Triton that was lost may be started anew."""

from __future__ import annotations

import time
from collections import deque

from spanqa_server.errors import ServerLostError
from spanqa_server.watch import Loss

MAX_RESTARTS = 5
RESTART_WINDOW_S = 600.0
USEFUL_S = 2.0
"""A Triton that answered so long before one of its processes died was no failed start: the next is not counted."""


class Restarts:
    """Counts the starts that have come to nothing of late."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def counted(self, loss: Loss, ready_at: float) -> str:
        """Allow another start, and give the line that tells of it.

        Args:
            loss: Why it is needed.
            ready_at: When the Triton that was lost had become ready, in seconds of `time.monotonic`; 0 for never.

        Raises:
            ServerLostError: If too many starts of late have come to nothing.
        """
        now, cause = time.monotonic(), loss.cause
        if loss.is_death and now - ready_at > USEFUL_S:
            return f"{cause}: starting Triton anew"
        self._times.append(now)
        while now - self._times[0] > RESTART_WINDOW_S:
            self._times.popleft()
        if len(self._times) > MAX_RESTARTS:
            raise ServerLostError(
                f"{cause}, for the {len(self._times)}th time in {RESTART_WINDOW_S / 60:.0f} minutes: "
                "giving up; see what Triton says with --verbose"
            )
        return f"{cause}: starting it anew"
