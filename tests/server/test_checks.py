"""Everything that can go wrong at start is one sentence, before Triton starts."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from spanqa import contract
from spanqa_server import checks as checks_module
from spanqa_server import server as server_module
from spanqa_server.checks import check_memory, check_start, free_memory_bytes, free_shared_bytes, with_free_ports
from spanqa_server.environment import check_packages, find_libpython, libpython_name
from spanqa_server.errors import InstallationError, MemoryShortageError, PortError, RepositoryError, ServerError
from spanqa_server.repository import models_of
from spanqa_server.server import Server
from spanqa_server.settings import ServerSettings


def test_a_taken_port_is_named_with_the_option_that_chooses_another(repository: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortError, match=rf"127\.0\.0\.1:{port} for HTTP .*--http-port"):
            with_free_ports(ServerSettings(repository=repository, http_port=port))


def test_an_address_of_another_machine_is_refused(repository: Path) -> None:
    with pytest.raises(PortError, match=r"192\.0\.2\.1"):
        with_free_ports(ServerSettings(repository=repository, host="192.0.2.1"))


def test_free_ports_are_chosen_and_differ(repository: Path) -> None:
    settings = with_free_ports(ServerSettings(repository=repository))
    ports = set(settings.ports().values())
    assert len(ports) == 3
    assert all(ports)


@pytest.mark.triton
def test_a_chosen_port_that_is_taken_before_triton_opens_it_is_chosen_again(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[socket.socket] = []

    def taking(settings: ServerSettings) -> Any:
        checked = check_start(settings)
        if not taken:
            taken.append(socket.create_server(("127.0.0.1", checked[0].http_port)))
        return checked

    monkeypatch.setattr(server_module, "check_start", taking)
    with Server(repository) as server, taken[0]:
        assert server.settings.http_port != taken[0].getsockname()[1]
        with socket.create_connection(("127.0.0.1", server.settings.http_port), timeout=10):
            pass


@pytest.mark.triton
def test_a_port_that_was_asked_for_is_not_exchanged_for_another(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_free_ports(ServerSettings(repository=repository))
    monkeypatch.setattr(checks_module, "with_free_ports", lambda asked: asked)
    with (
        socket.create_server(("127.0.0.1", settings.http_port)),
        pytest.raises(PortError, match="Triton cannot open its HTTP endpoint"),
    ):
        Server(repository, **{f"{name.lower()}_port": port for name, port in settings.ports().items()}).start()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grpc_port": 70_000}, "65535"),
        ({"grpc_port": 9001, "http_port": 9001}, "give each its own"),
        ({"host": "::1"}, "IPv4"),
        ({"drain_timeout_s": -1.0}, "0 or more"),
        ({"start_timeout_s": float("nan")}, "0 or more"),
        ({"start_timeout_s": float("inf")}, "up to 100,000,000"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ServerError, match=message):
        ServerSettings(repository=Path(), **options)


def test_a_missing_libpython_is_named_with_the_folders_searched(repository: Path, tmp_path: Path) -> None:
    settings = ServerSettings(repository=repository, libpython_folders=(tmp_path / "empty",))
    with pytest.raises(InstallationError, match=rf"{libpython_name()} was not found in .*empty.*Install"):
        check_start(settings)


def test_a_libpython_that_does_not_load_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / libpython_name()).write_text("not a library")
    with pytest.raises(InstallationError, match="not found"):
        find_libpython([tmp_path])


def test_the_libpython_of_the_running_python_is_found() -> None:
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in find_libpython().name


def test_a_missing_package_is_named_as_it_is_installed() -> None:
    with pytest.raises(InstallationError, match=r"needs no-such-thing.*spanqa\[serve\]"):
        check_packages({"no_such_thing": "no-such-thing"})


def test_a_missing_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no folder"):
        models_of(tmp_path / "nowhere")


def test_a_folder_that_this_user_may_not_enter_is_told_as_such(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access

    def of_another_user(path: Path, mode: int) -> bool:  # root, who may run this test, may enter every folder
        return Path(path).name != contract.ENCODER and access(path, mode)

    monkeypatch.setattr(os, "access", of_another_user)
    with pytest.raises(RepositoryError, match=rf"{contract.ENCODER} cannot be read by user \d+, as whom this runs"):
        models_of(repository)


def test_a_repository_without_the_entry_says_what_it_holds(repository: Path) -> None:
    (repository / contract.QUESTION_ANSWERING).rename(repository / "something_else")
    with pytest.raises(RepositoryError, match=r"no model 'question_answering', it holds encoder, .*something_else"):
        models_of(repository)


def test_a_configuration_that_does_not_parse_is_named_with_its_line(repository: Path) -> None:
    config = repository / contract.ENCODER / "config.pbtxt"
    config.write_text('backend: "python"\nbogus: 3\n')
    with pytest.raises(RepositoryError, match=r"encoder/config\.pbtxt is not .*2:1.*bogus"):
        models_of(repository)


def test_a_configuration_of_another_name_is_refused(repository: Path) -> None:
    config = repository / contract.ENCODER / "config.pbtxt"
    config.write_text(f'name: "other"\n{config.read_text()}')
    with pytest.raises(RepositoryError, match="'other': it must be 'encoder'"):
        models_of(repository)


def test_an_ensemble_that_names_an_absent_model_is_refused(repository: Path) -> None:
    (repository / contract.ENCODER).rename(repository / "renamed")
    with pytest.raises(RepositoryError, match=r"question_answering_ensemble.*needs encoder"):
        models_of(repository)


def test_a_backend_that_the_embedded_triton_lacks_is_refused(repository: Path) -> None:
    config = repository / contract.ENCODER / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "python"', 'platform: "tensorrt_plan"'))
    with pytest.raises(RepositoryError, match=r"'tensorrt_plan'.*Triton image"):
        models_of(repository)


def test_a_syntax_error_is_named_with_its_line(repository: Path) -> None:
    (repository / contract.ENCODER / "1" / "model.py").write_text("x = 1\ndef (\n")
    with pytest.raises(RepositoryError, match=r"'encoder' is not valid Python: .*model\.py, line 2"):
        models_of(repository)


def test_a_python_model_without_code_is_refused(repository: Path) -> None:
    (repository / contract.ENCODER / "1" / "model.py").unlink()
    with pytest.raises(RepositoryError, match=r"no 1/model\.py"):
        models_of(repository)


def test_too_little_memory_is_refused_with_what_is_needed(repository: Path) -> None:
    models = models_of(repository)
    with pytest.raises(MemoryShortageError, match=r"100 MB of memory are free and .* need about 270 MB"):
        check_memory(models, free_bytes=100_000_000)
    with pytest.raises(MemoryShortageError, match=r"1 MB free and 2 Python processes need 12 MB.*--shm-size"):
        check_memory(models, shared_bytes=1_000_000)
    check_memory(models)


def test_a_network_counts_for_each_core_that_loads_it_in_two_processes(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (repository / contract.ENCODER / "1" / "network.onnx").open("wb") as file:
        file.truncate(40_000_000)
    models = models_of(repository)
    for n_cores, needed in ((1, 470), (2, 550), (64, 630)):
        monkeypatch.setattr(checks_module, "usable_cores", lambda n_cores=n_cores: n_cores)
        with pytest.raises(MemoryShortageError, match=f"need about {needed} MB"):
            check_memory(models, free_bytes=100_000_000)


def test_a_container_s_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert free_memory_bytes(meminfo, tmp_path) == 8_192_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1000000\n")
    assert free_memory_bytes(meminfo, tmp_path) == 8_192_000
    (tmp_path / "memory.max").write_text("5000000\n")
    assert free_memory_bytes(meminfo, tmp_path) == 3_000_000


def test_a_limit_of_control_groups_of_version_1_counts_too(tmp_path: Path) -> None:
    (meminfo := tmp_path / "meminfo").write_text("MemAvailable:    8000 kB\n")
    (folder := tmp_path / "memory").mkdir()
    (folder / "memory.usage_in_bytes").write_text("3000000\n")
    (folder / "memory.stat").write_text("inactive_file 7\ntotal_inactive_file 1000000\n")
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")  # as where there is none
    assert free_memory_bytes(meminfo, tmp_path) == 8_192_000
    (folder / "memory.limit_in_bytes").write_text("5000000\n")
    assert free_memory_bytes(meminfo, tmp_path) == 3_000_000


def test_no_shared_memory_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MemoryShortageError, match="needs it"):
        free_shared_bytes(tmp_path / "nowhere")


def test_a_server_that_was_not_started_says_so(repository: Path) -> None:
    with pytest.raises(ServerError, match="has not been started"):
        _ = Server(repository).triton_pid
