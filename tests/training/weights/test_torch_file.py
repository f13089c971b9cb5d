"""Files of torch.save are read whatever they name, and nothing of them is ever run."""

from __future__ import annotations

import argparse
import enum
import functools
import gzip
import os
import pickle
import random
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.torch_file import Placeholder, is_torch_file, read_torch_file

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write(path, content, *, zipped=True, **options):
    torch.save(content, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def foreign_class(monkeypatch, name, base=object, **members):
    """A class of a module that can be imported while saving only."""
    module = sys.modules.get("absent_project.arguments") or types.ModuleType("absent_project.arguments")
    made = (
        enum.Enum(name, members, module=module.__name__)
        if base is enum.Enum
        else type(name, (base,), {"__module__": module.__name__})
    )
    setattr(module, name, made)
    for module_name in ("absent_project", "absent_project.arguments"):
        monkeypatch.setitem(sys.modules, module_name, module)
    return made


@FORMATS
def test_tensors_and_containers_come_back_as_they_were(tmp_path, zipped):
    content = {
        "model": {"a.weight": torch.randn(3, 4), "half": torch.randn(5).half(), "view": torch.arange(12).view(3, 4).T},
        "iteration": 7,
        "list": [1.5, None, ("text", True)],
    }
    read = read_torch_file(write(tmp_path / "x.pt", content, zipped=zipped))
    assert read["iteration"] == 7
    assert read["list"] == content["list"]
    for name, tensor in content["model"].items():
        assert torch.equal(read["model"][name], tensor), name
        assert read["model"][name].dtype == tensor.dtype


@FORMATS
def test_weights_beside_everything_that_megatron_saves_are_read(tmp_path, zipped, monkeypatch):
    """Arguments, states of three random generators, a foreign class and an enum's member."""
    foreign = foreign_class(monkeypatch, "Scheduler")()
    foreign.lr = 0.5
    content = {
        "args": argparse.Namespace(hidden_size=1024, params_dtype=torch.float16, rank=0),
        "rng_state": [
            {
                "np_rng_state": np.random.get_state(),
                "random_rng_state": random.getstate(),
                "torch": torch.get_rng_state(),
            }
        ],
        "array": np.arange(6.0).reshape(2, 3),
        "scheduler": foreign,
        "kind": foreign_class(monkeypatch, "ModelType", enum.Enum, encoder=1, decoder=2).encoder,
        "weight": torch.ones(2),
    }
    path = write(tmp_path / "x.pt", content, zipped=zipped)
    monkeypatch.undo()
    assert "absent_project" not in sys.modules
    read = read_torch_file(path)
    assert vars(read["args"]) == {"hidden_size": 1024, "params_dtype": torch.float16, "rank": 0}
    assert vars(read["scheduler"]) == {"lr": 0.5}
    for placeholder in (read["args"], read["scheduler"], read["kind"], read["array"]):
        assert isinstance(placeholder, Placeholder)
    assert torch.equal(read["weight"], torch.ones(2))


@FORMATS
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (eval, lambda marker: (f"open({marker!r}, 'w')",)),
        (exec, lambda marker: (f"open({marker!r}, 'w')",)),
        (open, lambda marker: (marker, "w")),
        (subprocess.check_call, lambda marker: (["touch", marker],)),
        (subprocess.Popen, lambda marker: (["touch", marker],)),
        (functools.partial, lambda marker: (open, marker, "w")),
        (getattr, lambda marker: (Reduced(open, marker, "w"), "name")),
        (pickle.loads, lambda marker: (pickle.dumps(Reduced(open, marker, "w")),)),
        (torch.storage._load_from_bytes, lambda marker: (pickle.dumps(Reduced(open, marker, "w")),)),
    ],
    ids=lambda value: value.__name__,
)
def test_nothing_that_a_file_names_is_called(tmp_path, zipped, function, arguments):
    marker = tmp_path / "marker"
    content = {"weight": torch.ones(1), "trap": Reduced(function, *arguments(str(marker)))}
    path = write(tmp_path / "x.pt", content, zipped=zipped)
    admitted = torch.serialization.get_safe_globals()
    assert isinstance(read_torch_file(path)["trap"], Placeholder)
    assert not marker.exists()
    assert set(torch.serialization.get_safe_globals()) == set(admitted)


@FORMATS
def test_a_trap_works_on_a_reader_that_trusts_the_file(tmp_path, zipped):
    """Else the tests above would prove nothing."""
    marker = tmp_path / "marker"
    trap = Reduced(eval, f"open({str(marker)!r}, 'w').close()")
    torch.load(write(tmp_path / "x.pt", {"trap": trap}, zipped=zipped), weights_only=False)
    assert marker.exists()


@FORMATS
@pytest.mark.parametrize("function", [os.system, os.remove, sys.exit])
def test_a_file_that_names_the_operating_system_is_refused_as_a_trap(tmp_path, zipped, function):
    marker = tmp_path / "marker"
    marker.touch()
    path = write(tmp_path / "x.pt", {"trap": Reduced(function, f"{marker}")}, zipped=zipped)
    with pytest.raises(ImportWeightsError, match=r"x\.pt: tries to run code when it is read \((posix|sys)\.\w+\)"):
        read_torch_file(path)
    assert marker.exists()


def test_a_name_hidden_from_the_listing_is_still_not_run(tmp_path):
    """A zip with two pickles of one name: whichever torch reads, only what was listed has a placeholder."""
    marker = tmp_path / "marker"
    path = write(tmp_path / "x.pt", {"trap": Reduced(eval, f"open({str(marker)!r}, 'w')")})
    with zipfile.ZipFile(path, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, pickle.dumps({}, protocol=2))
    with pytest.raises(ImportWeightsError, match="no plain file of weights"):
        read_torch_file(path)
    assert not marker.exists()


@FORMATS
def test_a_truncated_file_is_one_sentence(tmp_path, zipped):
    path = write(tmp_path / "x.pt", {"weight": torch.randn(200, 50)}, zipped=zipped)
    whole = path.read_bytes()
    for kept in (40, 200, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:kept])
        with pytest.raises(ImportWeightsError, match=r"x\.pt: is damaged, incomplete or no plain file") as caught:
            read_torch_file(path)
        assert "\n" not in str(caught.value)


@FORMATS
def test_no_damage_of_the_pickle_is_more_than_one_sentence(tmp_path, zipped):
    path = write(tmp_path / "x.pt", {"args": argparse.Namespace(a=[1, "b"]), "w": torch.ones(3)}, zipped=zipped)
    whole = path.read_bytes()
    start = whole.index(b"args") - 30
    generator = random.Random(5)
    for _ in range(150):
        place = generator.randrange(start, start + 300)
        path.write_bytes(whole[:place] + bytes([generator.randrange(256)]) + whole[place + 1 :])
        try:
            read_torch_file(path)
        except ImportWeightsError as error:
            assert "\n" not in str(error)  # noqa: PT017 most damages are noticed, some are other contents


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"weights, believe me" * 500, "is no file of weights: give one that torch"),
        (pickle.dumps({"weight": [1.0]}), "is no file of weights"),
        (random.Random(1).randbytes(20_000), "looks encrypted by the old toolkit, which cannot be undone here"),
        (gzip.compress(random.Random(1).randbytes(20_000), mtime=0), "is no file of weights"),
    ],
)
def test_other_files_are_told_what_they_look_like(tmp_path, content, message):
    path = tmp_path / "x.tlt"
    path.write_bytes(content)
    assert not is_torch_file(path)
    with pytest.raises(ImportWeightsError, match=rf"x\.tlt: {message}"):
        read_torch_file(path)


def test_weights_do_not_look_encrypted(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(torch.randn(8192).numpy().tobytes())
    with pytest.raises(ImportWeightsError, match="is no file of weights"):
        read_torch_file(path)


@FORMATS
def test_a_newer_pickle_protocol_is_refused_with_the_way_out(tmp_path, zipped):
    path = write(tmp_path / "x.pt", {"weight": torch.ones(1)}, zipped=zipped, pickle_protocol=4)
    with pytest.raises(ImportWeightsError, match=r"saved with pickle protocol 4, and only 2 .*torch\.save it without"):
        read_torch_file(path)


def test_a_torchscript_program_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("x/constants.pkl", pickle.dumps((), protocol=2))
    with pytest.raises(ImportWeightsError, match="is a TorchScript program: give the weights"):
        read_torch_file(path)


def test_a_swollen_pickle_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes((1 << 26) + 1))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ImportWeightsError, match=r"holds 67,108,865 bytes of names and shapes.*state_dict alone"):
        read_torch_file(path)


def test_errors_may_call_the_file_by_another_name(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ImportWeightsError, match=r"^model\.nemo: is empty"):
        read_torch_file(tmp_path / "x.pt", name="model.nemo")


def test_a_placeholder_ignores_what_it_is_made_of():
    placeholder = Placeholder(1, key=2)
    placeholder.__setstate__((1, "no mapping"))
    placeholder.__setstate__({"name": "value"})
    assert vars(placeholder) == {"name": "value"}
