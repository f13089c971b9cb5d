"""On a CPU each thread has a network of its own, as long as that costs little memory."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from spanqa import cpu_network
from spanqa.cpu_network import CpuEncoder, copies_for

MEGABYTE = 1 << 20


class Recorded:
    """A network that remembers which threads ran it."""

    def __init__(self, n_threads):
        self.n_threads = n_threads
        self.threads = set()

    def run(self, batch):
        self.threads.add(threading.get_ident())
        return batch


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """Makes an encoder on some cores whose file has some megabytes; gives it and the networks that it loaded."""

    def make(n_cores, megabytes, name="network.onnx"):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(megabytes * MEGABYTE)
        networks = []

        def load_network(path, *, n_threads):  # several threads load
            network = Recorded(n_threads)
            networks.append(network)
            return network

        monkeypatch.setattr(cpu_network, "load_network", load_network)
        monkeypatch.setattr(cpu_network, "usable_cores", lambda: n_cores)
        return CpuEncoder(path), networks

    return make


def run_side_by_side(encoder, n_threads, n_runs=3):
    together = threading.Barrier(n_threads)

    def run_some(_):
        for _ in range(n_runs):
            together.wait(10)
            encoder.run("window", alone=False)

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(run_some, range(n_threads)))


@pytest.mark.parametrize(("megabytes", "copies"), [(0, 8), (1, 8), (20, 6), (50, 2), (100, 1), (2000, 1)])
def test_a_network_is_loaded_for_each_core_within_128_megabytes(megabytes, copies):
    assert copies_for(megabytes * MEGABYTE, 8) == copies


def test_openvino_loads_one_for_all_cores(loaded):
    encoder, networks = loaded(n_cores=4, megabytes=1, name="network.xml")
    run_side_by_side(encoder, 4)
    assert [len(network.threads) for network in networks] == [0, 4]
    encoder.close()


def test_each_thread_keeps_to_a_network_of_its_own(loaded):
    encoder, networks = loaded(n_cores=4, megabytes=10)
    run_side_by_side(encoder, 4)
    alone, *beside = networks
    assert (alone.n_threads, alone.threads) == (4, set())
    assert [network.n_threads for network in beside] == [1] * 4
    assert [len(network.threads) for network in beside] == [1] * 4
    assert len({thread for network in beside for thread in network.threads}) == 4
    encoder.run("window", alone=True)
    assert alone.threads == {threading.get_ident()}
    encoder.close()


def test_of_a_large_network_several_threads_share_one(loaded):
    encoder, networks = loaded(n_cores=4, megabytes=50)
    run_side_by_side(encoder, 4)
    assert [len(network.threads) for network in networks] == [0, 2, 2]
    encoder.close()


def test_on_one_core_one_is_enough(loaded):
    encoder, networks = loaded(n_cores=1, megabytes=10)
    run_side_by_side(encoder, 1)
    assert [(network.n_threads, len(network.threads)) for network in networks] == [(1, 1)]
    encoder.close()
