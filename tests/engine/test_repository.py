"""The build makes a complete repository, and touches the old one only when the new one has passed."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.cli import main
from spanqa.datasets import read_dataset
from spanqa.limits import NAMES, Limits, config_artefact
from spanqa.manifest import Engine, Gpu, load_manifest, load_served_tokenizer, manifest_json
from spanqa.packing import Bucket, Packing
from spanqa.startup import versions_in
from spanqa.windows import WindowMaker
from spanqa_build import check as checking
from spanqa_build import versions as on_disk
from spanqa_build.check import check_repository
from spanqa_build.configs import limits_from_text
from spanqa_build.errors import RepositoryError
from spanqa_build.repository import GpuNetworks, manifest_from_checkpoint, write_repository
from spanqa_build.rollback import rollback_repository
from spanqa_build.warmup import warmup_from_examples
from spanqa_training.checkpoints.checkpoint import read_checkpoint

FLOAT32 = ("--precision", "float32", "--engine", "onnxruntime")
"""One network, whichever runtime happens to be the faster one with so small a model."""


def command(model, output, data, *more):
    return ["build", "-m", str(model), "-o", str(output), "--data", str(data), "--quiet", *more]


@pytest.fixture(scope="module")
def built(tiny_model_folder, thirty_questions, tmp_path_factory):
    """A repository with a float32 network."""
    folder = tmp_path_factory.mktemp("repositories") / "built"
    assert main(command(tiny_model_folder, folder, thirty_questions, *FLOAT32)) == 0
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_repository_holds_every_model_and_says_what_is_in_it(built, tiny_model_folder):
    assert {path.name for path in built.iterdir()} == set(contract.MODELS)
    manifest, _ = load_served_tokenizer(built / contract.QUESTION_ANSWERING / "1")
    checkpoint = read_checkpoint(tiny_model_folder)
    assert manifest.windows == checkpoint.windows
    assert manifest.decode.no_answer_threshold == checkpoint.no_answer_threshold
    assert manifest.model["name"] == "tiny"
    assert manifest.model["family"] == "bert"
    assert manifest.encoder["precision"] == "float32"
    network = built / contract.ENCODER / "1" / manifest.encoder["file"]
    assert manifest.encoder["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    assert manifest.encoder["checked_on"] == "thirty.json"


def test_the_report_is_json_on_request(tiny_model_folder, thirty_questions, tmp_path, capsys):
    arguments = command(tiny_model_folder, tmp_path / "repo", thirty_questions, *FLOAT32, "--json")
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["checked_on"] == "thirty.json"


def test_building_again_adds_a_version_and_keeps_the_last_one_and_models_of_others(
    built, tiny_model_folder, thirty_questions, tmp_path
):
    folder = tmp_path / "repo"
    shutil.copytree(built, folder)
    (folder / "somebody_elses" / "1").mkdir(parents=True)
    (folder / "somebody_elses" / "config.pbtxt").write_text("name: 'x'")
    for expected in ([1, 2], [2, 3]):
        assert main(command(tiny_model_folder, folder, thirty_questions, *FLOAT32)) == 0
        assert {tuple(versions_in(folder / name)) for name in contract.MODELS} == {tuple(expected)}
    assert (folder / "somebody_elses" / "config.pbtxt").exists()
    assert check_repository(folder).versions == (2, 3)
    network = f"{contract.ENCODER}/1/network.onnx"
    assert contents(folder)[network.replace("/1/", "/3/")] == contents(built)[network]


def test_a_folder_of_something_else_is_left_alone(tiny_model_folder, thirty_questions, tmp_path, capsys):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("years of work")
    assert main(command(tiny_model_folder, folder, thirty_questions, *FLOAT32)) == 2
    assert "holds something else than a model repository" in capsys.readouterr().err
    assert (folder / "chapter1.txt").read_text() == "years of work"


def test_folders_that_are_only_called_like_ours_are_left_alone(tiny_model_folder, thirty_questions, tmp_path, capsys):
    data = tmp_path / "project" / contract.QUESTION_ANSWERING / "train.json"
    data.parent.mkdir(parents=True)
    data.write_text("months of work")
    assert main(command(tiny_model_folder, tmp_path / "project", thirty_questions)) == 2
    assert "project: holds something else than a model repository" in capsys.readouterr().err
    assert data.read_text() == "months of work"


def test_a_full_disk_leaves_the_old_repository(monkeypatch, built, tiny_model_folder, thirty_questions, capsys):
    before = contents(built)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(on_disk.shutil, "copyfile", full)
    assert main(command(tiny_model_folder, built, thirty_questions, *FLOAT32)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert contents(built) == before
    assert {path.name for path in built.parent.iterdir()} == {"built"}


def test_missing_questions_and_checkpoints_are_one_sentence(tiny_model_folder, tmp_path, capsys):
    assert main(command(tiny_model_folder, tmp_path / "repo", tmp_path / "nowhere.json")) == 2
    assert "plain or gzipped with --data" in capsys.readouterr().err
    assert main(command(tmp_path / "nowhere", tmp_path / "repo", tmp_path / "nowhere.json")) == 2
    assert "missing" in capsys.readouterr().err


BUCKETS = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=8) for length in (128, 256))
V100 = Gpu(name="Tesla V100-SXM2-32GB", compute_capability="7.0")
TENSORRT = Engine(platform="tensorrt_plan", graph_rows=(1, 4, 16), instances=2, gpu=V100, tensorrt="10.4.0")
ONNXRUNTIME = Engine(platform="onnxruntime_onnx")


@pytest.fixture(scope="module")
def checkpoint(tiny_model_folder):
    return read_checkpoint(tiny_model_folder)


@pytest.fixture(scope="module")
def maker(checkpoint):
    return WindowMaker(checkpoint.tokenizer(), checkpoint.windows)


@pytest.fixture(scope="module")
def write_gpu(checkpoint, maker, thirty_questions, tmp_path_factory):
    """Writes a version of a GPU's repository, its engines stood in for by text."""
    warmup = warmup_from_examples(maker, read_dataset(thirty_questions), BUCKETS)

    def write(folder, engine=TENSORRT, text="plan", buckets=BUCKETS):
        scratch = tmp_path_factory.mktemp("engines")
        paths = {}
        for bucket in buckets:
            paths[bucket.model] = scratch / bucket.model
            paths[bucket.model].write_text(f"{text} {bucket.length}")
        networks = GpuNetworks(
            target="v100",
            engine=engine,
            packing=Packing(buckets=buckets, calls_in_flight=4),
            paths=paths,
            warmup={bucket.model: warmup[bucket.model] for bucket in buckets},
            precision="fp16",
            facts={"parity": {"answers_changed": 0}},
        )
        manifest = manifest_from_checkpoint(checkpoint, networks, name="tiny")
        return write_repository(folder, manifest, checkpoint, networks)

    return write


@pytest.fixture
def gpu_repository(write_gpu, tmp_path):
    assert write_gpu(tmp_path / "repo") == 1
    return tmp_path / "repo"


def config_of(folder, name):
    return text_format.Parse((folder / name / "config.pbtxt").read_text(), pb.ModelConfig())


def test_a_gpus_repository_has_an_encoder_a_bucket(gpu_repository):
    assert {path.name for path in gpu_repository.iterdir()} == {
        *(name for name in contract.MODELS if name != contract.ENCODER),
        "encoder_128",
        "encoder_256",
    }
    manifest, _ = load_served_tokenizer(gpu_repository / contract.QUESTION_ANSWERING / "1")
    assert (manifest.target, manifest.packing.buckets, manifest.engine) == ("v100", BUCKETS, TENSORRT)
    assert manifest.encoder == {"precision": "fp16", "parity": {"answers_changed": 0}}
    assert manifest.versions.keys() >= {"spanqa", "torch", "onnxruntime"}
    assert (gpu_repository / "encoder_128" / "1" / "model.plan").read_text() == "plan 128"
    main = config_of(gpu_repository, contract.QUESTION_ANSWERING)
    table = json.loads(main.parameters["buckets"].string_value)
    assert [Bucket(**row) for row in table] == list(BUCKETS)
    ensemble = config_of(gpu_repository, contract.ENSEMBLE)
    assert [step.model_name for step in ensemble.ensemble_scheduling.step][1] == "encoder_256"


def test_a_tensorrt_encoder_declares_its_profile_graphs_and_warmup(gpu_repository):
    config = config_of(gpu_repository, "encoder_128")
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "", 8)
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[128]] * 5
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.profile)) == (pb.ModelInstanceGroup.KIND_GPU, 2, ["0"])
    assert config.optimization.cuda.graphs
    graphs = config.optimization.cuda.graph_spec
    assert [graph.batch_size for graph in graphs] == [1, 4]  # 16 rows never come
    names = {tensor.name for tensor in contract.ENCODER_INPUTS}
    for graph in graphs:
        assert {name: list(shape.dim) for name, shape in graph.input.items()} == {name: [128] for name in names}
        assert not graph.HasField("graph_lower_bound")
    assert [sample.batch_size for sample in config.model_warmup] == [1, 8]
    for sample in config.model_warmup:
        assert set(sample.inputs) == names
        for name, tensor in sample.inputs.items():
            assert (tensor.data_type, list(tensor.dims), tensor.input_data_file) == (pb.TYPE_INT32, [128], name)


def test_an_encoder_is_warmed_up_with_a_real_window(gpu_repository, maker):
    folder = gpu_repository / "encoder_128" / "warmup"
    ids, mask, types = (np.fromfile(folder / tensor.name, dtype="<i4") for tensor in contract.ENCODER_INPUTS)
    assert ids.shape == mask.shape == types.shape == (128,)
    n_tokens = int(mask.sum())
    assert mask[:n_tokens].all()
    assert 64 < n_tokens <= 128  # a long one, not padding
    assert ids[0] == maker.tokenizer.cls_id
    assert ids[n_tokens - 1] == maker.tokenizer.sep_id
    assert types[n_tokens - 1] == 1


def test_the_rival_has_the_same_buckets_without_profiles_and_graphs(write_gpu, tmp_path):
    write_gpu(tmp_path / "repo", ONNXRUNTIME)
    assert (tmp_path / "repo" / "encoder_256" / "1" / "model.onnx").read_text() == "plan 256"
    config = config_of(tmp_path / "repo", "encoder_256")
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 8)
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert not config.instance_group[0].profile
    assert not config.optimization.cuda.graphs
    assert len(config.model_warmup) == 2
    check_repository(tmp_path / "repo")


def test_every_model_serves_its_newest_version_and_the_ensemble_calls_its_own(gpu_repository, write_gpu):
    write_gpu(gpu_repository)
    for path in gpu_repository.glob("*/config.pbtxt"):
        assert config_of(gpu_repository, path.parent.name).version_policy.latest.num_versions == 1
    steps = config_of(gpu_repository, contract.ENSEMBLE).ensemble_scheduling.step
    assert [step.model_version for step in steps] == [2, 2, 2]


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


def test_there_is_no_going_back_from_the_first_version(gpu_repository):
    before = contents(gpu_repository)
    with pytest.raises(RepositoryError, match="going back needs two"):
        rollback_repository(gpu_repository)
    assert contents(gpu_repository) == before


def test_a_disk_that_fills_up_at_any_file_leaves_the_old_repository(monkeypatch, gpu_repository, write_gpu):
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


def test_a_kill_in_the_middle_leaves_the_old_repository_and_the_next_build_works(gpu_repository, write_gpu):
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


def test_going_back_to_an_altered_version_is_refused(gpu_repository, write_gpu):
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


def test_a_version_of_no_build_is_found(gpu_repository):
    (gpu_repository / "encoder_128" / "9").mkdir()
    with pytest.raises(RepositoryError, match="encoder_128/9: is of no build, whose newest version is 1"):
        check_repository(gpu_repository)


LIMITS = {"max_context_bytes": 50_000, "max_windows": 99, "max_queue_age_s": 7, "tokenizer_cache_bytes": 0}


def limits_of(folder):
    config = (folder / contract.QUESTION_ANSWERING / "config.pbtxt").read_text()
    return limits_from_text(config, load_manifest(folder / contract.QUESTION_ANSWERING / "1"))


def with_parameters(path, values):
    """Write parameters into a configuration, as somebody with an editor does."""
    text = path.read_text()
    for name, value in values.items():
        text, n_found = re.subn(rf'(key: "{name}"\s*value \{{\s*string_value: )"\d+"', rf'\1"{value}"', text)
        assert n_found == 1
    path.write_text(text)


def test_limits_that_people_set_are_no_damage_and_survive_builds_and_going_back(gpu_repository, write_gpu):
    with_parameters(gpu_repository / contract.QUESTION_ANSWERING / "config.pbtxt", LIMITS)
    check_repository(gpu_repository)
    for change in (lambda: write_gpu(gpu_repository), lambda: rollback_repository(gpu_repository)):
        change()
        check_repository(gpu_repository)
        assert limits_of(gpu_repository) == Limits(**LIMITS)
        preprocess = (gpu_repository / contract.PREPROCESS / "config.pbtxt").read_text()
        assert 'string_value: "50000"' in preprocess


def test_a_limit_that_is_none_is_refused_by_the_check_and_mended_by_a_build(gpu_repository, write_gpu, capsys):
    with_parameters(gpu_repository / contract.QUESTION_ANSWERING / "config.pbtxt", {"max_context_bytes": 10})
    with pytest.raises(RepositoryError, match=r"question_answering: config\.pbtxt: max_context_bytes is 10: give a"):
        check_repository(gpu_repository)
    write_gpu(gpu_repository)
    assert "config.pbtxt: its limits cannot be kept (" in capsys.readouterr().err
    check_repository(gpu_repository)
    assert limits_of(gpu_repository) == Limits()


def test_the_limit_of_a_repository_from_before_it_was_a_parameter_survives_a_build(gpu_repository, write_gpu):
    main_entry = gpu_repository / contract.QUESTION_ANSWERING
    config = text_format.Parse((main_entry / "config.pbtxt").read_text(), pb.ModelConfig())
    for name in NAMES:
        del config.parameters[name]
    (main_entry / "config.pbtxt").write_text(text_format.MessageToString(config))
    path = main_entry / "1" / "manifest.json"
    own = replace(
        load_manifest(path.parent),
        max_context_bytes=2_000_000,
        configs=load_manifest(path.parent).configs
        | {"question_answering/config.pbtxt": config_artefact(main_entry / "config.pbtxt")},
    )
    path.write_text(json.dumps(json.loads(manifest_json(own)) | {"max_context_bytes": 50_000}))
    assert check_repository(gpu_repository).manifest.max_context_bytes == 50_000
    write_gpu(gpu_repository)
    check_repository(gpu_repository)
    assert limits_of(gpu_repository) == Limits(max_context_bytes=50_000)


def test_an_output_that_cannot_be_written_is_told_before_the_work(
    tiny_model_folder, thirty_questions, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert main(command(tiny_model_folder, tmp_path / "repository", thirty_questions)) == 2
    said = capsys.readouterr().err
    assert "repository: cannot be written" in said
    assert "exporting" not in said


def test_a_check_as_json_names_versions_and_files(gpu_repository, capsys):
    assert main(["build", "--check", str(gpu_repository), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"] == [1]
    assert any("encoder_128/model.plan" in line for line in report["lines"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "tensorrt"], "--engine tensorrt is for GPUs"),
        (["--target", "v100", "--precision", "int8"], "--precision int8 is for --target cpu"),
        (["--check", "a", "--rollback", "a"], "not allowed with argument"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(tiny_model_folder, tmp_path, capsys, flags, message):
    try:
        status = main(["build", "-m", str(tiny_model_folder), "-o", str(tmp_path / "out"), *flags])
    except SystemExit as stopped:  # argparse's own way
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err
