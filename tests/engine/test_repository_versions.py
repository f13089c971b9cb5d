"""A version is added or gone back to whole or not at all, whatever fails, and what no build wrote is kept."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.packing import Bucket
from spanqa_build import versions as on_disk
from spanqa_build.check import check_repository
from spanqa_build.errors import RepositoryError
from spanqa_build.rollback import rollback_repository

BUCKETS = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=8) for length in (128, 256))


def config_of(folder, name):
    return text_format.Parse((folder / name / "config.pbtxt").read_text(), pb.ModelConfig())


def test_going_back_makes_the_version_before_the_newest(gpu_repository, write_gpu):
    write_gpu(gpu_repository, text="worse", buckets=BUCKETS[1:])
    assert check_repository(gpu_repository).manifest.packing.encoders == ("encoder_256",)
    assert rollback_repository(gpu_repository) == 3
    checked = check_repository(gpu_repository)
    assert checked.versions == (1, 2, 3)
    assert checked.manifest.packing.encoders == ("encoder_128", "encoder_256")
    for model in ("encoder_128", "encoder_256"):
        one, three = (gpu_repository / model / version / "model.plan" for version in ("1", "3"))
        assert one.samefile(three)  # no second copy
    assert config_of(gpu_repository, contract.ENSEMBLE).ensemble_scheduling.step[0].model_version == 3
    write_gpu(gpu_repository)
    assert check_repository(gpu_repository).versions == (3, 4)


def test_there_is_no_going_back_from_the_first_version(gpu_repository, contents):
    before = contents(gpu_repository)
    with pytest.raises(RepositoryError, match="going back needs two"):
        rollback_repository(gpu_repository)
    assert contents(gpu_repository) == before


def test_a_disk_that_fills_up_at_any_file_leaves_the_old_repository(monkeypatch, gpu_repository, write_gpu, contents):
    before = contents(gpu_repository)
    flush = on_disk._flush
    n_files, said = 0, []
    while True:
        n_files += 1
        written = iter(range(n_files))

        def full(path, written=written):
            if next(written, None) is None:
                raise OSError(28, "No space left on device")
            flush(path)

        monkeypatch.setattr(on_disk, "_flush", full)
        try:
            write_gpu(gpu_repository)
            break
        except RepositoryError as error:
            said.append(str(error))
        assert contents(gpu_repository) == before
        assert [path.name for path in gpu_repository.parent.iterdir()] == ["repo"]
    assert n_files > 15
    assert all("No space left on device: the old repository is as it was" in sentence for sentence in said)
    assert check_repository(gpu_repository).versions == (1, 2)


def test_a_kill_in_the_middle_leaves_the_old_repository_and_the_next_build_works(gpu_repository, write_gpu, contents):
    before = contents(gpu_repository)
    code = """
import os, signal, sys
from pathlib import Path
from spanqa.manifest import load_manifest
from spanqa_build import versions
versions.seal_version = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
manifest = load_manifest(folder / "question_answering" / "1")
files = {"question_answering/tokenizer.json": b"{}"}
versions.add_version(folder, manifest, files, {})
"""
    done = subprocess.run([sys.executable, "-c", code, str(gpu_repository)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert contents(gpu_repository) == before
    assert len(os.listdir(gpu_repository.parent)) == 2  # what was half written lies beside it
    write_gpu(gpu_repository)
    assert os.listdir(gpu_repository.parent) == ["repo"]
    assert check_repository(gpu_repository).versions == (1, 2)


def test_what_no_build_wrote_in_a_models_folder_is_kept(gpu_repository, write_gpu):
    (gpu_repository / "encoder_128" / "notes.txt").write_text("why 128")
    (gpu_repository / contract.QUESTION_ANSWERING / "runbook").mkdir()
    (gpu_repository / contract.QUESTION_ANSWERING / "runbook" / "night.md").write_text("call")
    write_gpu(gpu_repository)
    assert (gpu_repository / "encoder_128" / "notes.txt").read_text() == "why 128"
    assert (gpu_repository / contract.QUESTION_ANSWERING / "runbook" / "night.md").read_text() == "call"


def test_going_back_to_an_altered_version_is_refused(gpu_repository, write_gpu, contents):
    write_gpu(gpu_repository)
    plan = gpu_repository / "encoder_128" / "1" / "model.plan"
    before = contents(gpu_repository)
    content = plan.read_bytes()
    os.unlink(plan)  # both versions may name one file
    plan.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RepositoryError, match=r"encoder_128/1/model\.plan: was altered"):
        rollback_repository(gpu_repository)
    assert contents(gpu_repository).keys() == before.keys()


def test_a_repository_given_by_a_link_is_built_where_it_leads(gpu_repository, write_gpu, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(gpu_repository)
    write_gpu(link)
    write_gpu(link)
    assert link.is_symlink()
    assert check_repository(gpu_repository).versions == (2, 3)


def test_builds_at_the_same_time_take_turns(gpu_repository, write_gpu):
    threads = [threading.Thread(target=write_gpu, args=(gpu_repository,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert check_repository(gpu_repository).versions == (4, 5)
    assert os.listdir(gpu_repository.parent) == ["repo"]
