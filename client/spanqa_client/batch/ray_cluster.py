"""Ray as a batch uses it: an instance of its own on this machine, or a cluster that is there; quiet in both cases."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spanqa.cores import usable_cores
from spanqa.errors import InputError, SpanqaError

HERE = "here"
"""The address that stands for an instance of its own."""
_CLIENT = "ray://"
_STORE_BYTES_OF_WORKER = 64 << 20
_STARTS = 2
"""One of its processes may find the port taken that it was given, or miss the 30 s that Ray allows for its start."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Its C++ tells on stderr of actors that are started again, which is what they are for.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS": "0",  # or some lines would come after its end
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def check_address(address: str) -> None:
    """Refuse an address from where this machine's files could not be read.

    Raises:
        InputError: It is one of a cluster that this machine is not part of.
    """
    if address.startswith(_CLIENT):
        raise InputError(
            f"--ray is {address!r}: run the command on a machine of the cluster, and give its head's host:port, or auto"
        )


@contextmanager
def connected(address: str, n_workers: int) -> Iterator[None]:
    """Start Ray on this machine's loopback, or join a cluster, for the time of the block.

    Args:
        address: HERE, `auto`, or host:port of a cluster's head.
        n_workers: Actors that must fit on this machine, where Ray is started.

    Raises:
        SpanqaError: Ray is not installed, or cannot be started or reached.
    """
    with contextlib.ExitStack() as stack:
        os.environ.update(_QUIET)
        folder = ""
        if address == HERE:
            _keep_to_loopback()
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spanqa-ray-", ignore_cleanup_errors=True))
            # Ray ends what a start that failed has left when Python ends: after that, as this is registered before it.
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            import ray
        except ModuleNotFoundError as error:
            raise SpanqaError(
                "--ray needs the package ray, which is not installed: pip install 'spanqa[ray]'"
            ) from error
        # What its processes and itself say of workers that died goes to our stdout, which is for the summary.
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        stack.callback(ray.shutdown)
        for n_tries_left in reversed(range(_STARTS if address == HERE else 1)):
            try:
                with _without_stderr():
                    ray.init(
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **_options(address, n_workers, f"{folder}/{n_tries_left}"),
                    )
                break
            except Exception as error:  # Ray has no class for it: a node that does not start is a bare Exception
                if not n_tries_left:
                    said = " ".join(str(error).split())
                    raise SpanqaError(f"--ray {address}: Ray cannot be started or reached there: {said}") from error
                ray.shutdown()
        yield


def _options(address: str, n_workers: int, folder: str) -> dict[str, Any]:
    """Give what Ray is joined with, or started with, in a folder that is not there yet."""
    if address != HERE:
        return {"address": address}
    return {
        "address": "local",
        "num_cpus": max(n_workers, usable_cores()),
        "include_dashboard": False,
        "object_store_memory": (n_workers + 8) * _STORE_BYTES_OF_WORKER,
        "_temp_dir": folder,
    }


def n_cpus() -> int:
    """Count the CPUs of the cluster that is joined."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _keep_to_loopback() -> None:
    """Have an instance of its own listen on loopback alone, and take what its own processes send alone."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # off, nodes bind to loopback on every system
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # or it would write one into the home folder


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what C++ writes to stderr as Ray starts; what goes wrong is raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
