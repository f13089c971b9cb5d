"""A check names every file of both versions, and tells in one sentence what was altered, is missing or is not ours."""

import json
import shutil
import subprocess
import sys

import pytest

from spanqa import contract
from spanqa.cli import main
from spanqa.manifest import Gpu, load_manifest
from spanqa.startup import versions_in
from spanqa_build import check as checking
from spanqa_build.check import check_repository
from spanqa_build.errors import RepositoryError


def test_a_check_names_every_file_of_both_versions(gpu_repository, write_gpu):
    write_gpu(gpu_repository, text="other")
    checked = check_repository(gpu_repository)
    assert checked.versions == (1, 2)
    for version in ("1", "2"):
        for name in load_manifest(gpu_repository / contract.QUESTION_ANSWERING / version).artefacts:
            assert any(line.split()[:2] == [version, name] for line in checked.lines)
    assert checked.lines[-1] == (
        "target v100: for Tesla V100-SXM2-32GB (7.0); this machine shows no GPU to hold that against"
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("question_answering/1/tokenizer.json", lambda p: p.write_bytes(p.read_bytes() + b" "), "not the tokenizer"),
        ("question_answering/1/manifest.json", lambda p: p.write_text(p.read_text().replace("v100", "t4")), "edited"),
        ("question_answering/1/manifest.json", lambda p: p.unlink(), "cannot be read"),
        ("encoder_256/1/model.plan", flip, "was altered"),
        ("encoder_256/1/model.plan", lambda p: p.unlink(), "cannot be read"),
        ("preprocess/1/model.py", flip, "was altered"),
        ("encoder_128/config.pbtxt", lambda p: p.write_text(p.read_text() + "# mine"), "was altered, in more"),
        ("encoder_128/warmup/input_ids", flip, "was altered"),
        ("question_answering_ensemble/1", shutil.rmtree, "missing"),
    ],
)
def test_a_check_finds_what_is_wrong_in_one_sentence(gpu_repository, file, damage, message):
    damage(gpu_repository / file)
    with pytest.raises(RepositoryError, match=message) as caught:
        check_repository(gpu_repository)
    assert str(gpu_repository / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_check_on_another_gpu_says_so(monkeypatch, gpu_repository):
    t4 = [Gpu(name="Tesla T4", compute_capability="7.5")]
    monkeypatch.setattr(checking, "gpus_here", lambda: t4)
    monkeypatch.setattr(
        checking, "check_machine", lambda manifest, check=checking.check_machine: check(manifest, gpus=lambda: t4)
    )
    with pytest.raises(RepositoryError, match=r"this machine has Tesla T4 \(7\.5\)"):
        check_repository(gpu_repository)


def test_a_folder_without_a_repository_is_no_repository(tmp_path):
    with pytest.raises(RepositoryError, match="holds no version of question_answering"):
        check_repository(tmp_path)


@pytest.mark.parametrize("command", ["check-repository", "rollback-repository"])
def test_what_is_done_beside_a_server_needs_nothing_that_only_building_does(gpu_repository, write_gpu, command):
    write_gpu(gpu_repository)
    absent = "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'omegaconf', 'lightning'))); "
    program = f"{absent}from spanqa.cli import main; sys.exit(main({[command, str(gpu_repository), '--json']!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told.get("version") or told["versions"][-1]) == versions_in(gpu_repository / "question_answering")[-1]


def test_what_no_build_wrote_is_told_of(gpu_repository):
    for path in ("another/config.pbtxt", "question_answering/1/numpy.py", "encoder_999/config.pbtxt"):
        (gpu_repository / path).parent.mkdir(exist_ok=True)
        (gpu_repository / path).write_text("")
    told = [line for line in check_repository(gpu_repository).lines if line.startswith("not of this build")]
    assert [line.rpartition(" ")[2] for line in told] == ["another", "question_answering/1/numpy.py"]


def test_a_folder_that_may_not_be_read_is_one_sentence(gpu_repository, monkeypatch, capsys):
    def refuse(_):
        raise PermissionError(13, "Permission denied", f"{gpu_repository}/question_answering")

    monkeypatch.setattr(checking, "versions_in", refuse)  # root, who may run this test, may read everything
    assert main(["check-repository", str(gpu_repository)]) == 2
    said = capsys.readouterr().err
    assert "question_answering: cannot be read: Permission denied: let this user read" in said
    assert said.count("\n") == 1


def test_a_version_of_no_build_is_found(gpu_repository):
    (gpu_repository / "encoder_128" / "9").mkdir()
    with pytest.raises(RepositoryError, match="encoder_128/9: is of no build, whose newest version is 1"):
        check_repository(gpu_repository)


def test_a_check_as_json_names_versions_and_files(gpu_repository, capsys):
    assert main(["build", "--check", str(gpu_repository), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"] == [1]
    assert any("encoder_128/model.plan" in line for line in report["lines"])
