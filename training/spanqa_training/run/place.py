"""Which of the processes that torchrun started this one is, and whether that is what the spec asks for."""

from __future__ import annotations

import dataclasses
import os

from spanqa_training.errors import RunError
from spanqa_training.spec.schema import TrainerSpec

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which process of a run this is, by the environment that torchrun gives it.

    Args:
        rank: Its number among all.
        world_size: How many there are.
        local_rank: Its number on its node.
        local_world_size: How many there are on each node.
        host: Where the first process is met.
        port: The same.
        attempt: How often torchrun has started the run anew.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    host: str
    port: int
    attempt: str

    @property
    def n_nodes(self) -> int:
        """Machines, or groups of processes."""
        return self.world_size // self.local_world_size

    @property
    def node(self) -> int:
        """Which of them this process is on."""
        return self.rank // self.local_world_size


def place_from_environment() -> Place | None:
    """Read torchrun's variables; None where there are none, or one process alone.

    Raises:
        RunError: They are no numbers, or contradict each other.
    """
    values = os.environ
    if any(name not in values for name in _NEEDED) or values["WORLD_SIZE"] == "1":
        return None
    try:
        alone = "LOCAL_RANK" not in values
        place = Place(
            rank=int(values["RANK"]),
            world_size=int(values["WORLD_SIZE"]),
            local_rank=0 if alone else int(values["LOCAL_RANK"]),
            local_world_size=1 if alone else int(values["LOCAL_WORLD_SIZE"]),
            host=values["MASTER_ADDR"],
            port=int(values["MASTER_PORT"]),
            attempt=values.get("TORCHELASTIC_RESTART_COUNT", "0"),
        )
    except (KeyError, ValueError) as error:
        raise RunError(f"the variables of torchrun are incomplete ({error}): start the run by torchrun") from error
    if not 0 <= place.local_rank <= place.rank < place.world_size or place.world_size % place.local_world_size:
        raise RunError(
            f"RANK {place.rank}, WORLD_SIZE {place.world_size}, LOCAL_RANK {place.local_rank} and LOCAL_WORLD_SIZE "
            f"{place.local_world_size} contradict each other: start the same number of processes on each node"
        )
    os.environ["LOCAL_RANK"] = str(place.local_rank)
    return place


def check_nodes(trainer: TrainerSpec, place: Place | None) -> None:
    """Refuse what a spec says of nodes and processes where it is not what was started.

    Raises:
        RunError: It is not.
    """
    asked = trainer.num_nodes
    if place is None:
        if (asked or 1) > 1:
            raise RunError(
                f"trainer.num_nodes is {asked}, and this process was not started by torchrun: on each node say "
                f"torchrun --nnodes {asked} --nproc-per-node GPUS --node-rank K --master-addr HOST --master-port PORT "
                "-m spanqa ..."
            )
        return
    if asked not in (None, place.n_nodes):
        raise RunError(f"trainer.num_nodes is {asked}, and torchrun started {place.n_nodes}: give {place.n_nodes}")
    started = place.local_world_size
    if trainer.gpus and trainer.gpus != started:
        raise RunError(
            f"trainer.gpus (-g) is {trainer.gpus}, and torchrun started {started} processes on each node: give "
            f"{started}, or leave it out"
        )
