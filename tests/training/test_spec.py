"""Specs: every shipped one is sound, every mistake is named with its key."""

import itertools

import pytest

from spanqa_training.errors import SpecError
from spanqa_training.loop import learning_rate_factor
from spanqa_training.spec import ScheduleSpec
from spanqa_training.spec_file import load_spec, spec_yaml

MINIMAL = "restore_from: base\ntraining_ds:\n  file: train.json\n"


@pytest.fixture
def spec_file(tmp_path):
    def write(text):
        path = tmp_path / "spec.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_shipped_spec_is_sound_once_its_open_values_are_given(root):
    specs = sorted((root / "training" / "specs").glob("*.yaml"))
    assert specs
    for path in specs:
        spec = load_spec(
            path, ["training_ds.file=[a.json,b.json]", "validation_ds.file=c.json"], model="some-checkpoint"
        )
        assert spec.training_ds.file == ("a.json", "b.json")
        assert spec.restore_from == "some-checkpoint"


def test_a_resolved_spec_reads_back_as_itself(spec_file, tmp_path):
    spec = load_spec(spec_file(MINIMAL + "optim:\n  lr: 1e-4\n  betas: [0.9, 0.98]\n"))
    again = tmp_path / "resolved.yaml"
    again.write_text(spec_yaml(spec), encoding="utf-8")
    assert load_spec(again) == spec
    assert spec.optim.lr == 1e-4


def test_references_between_keys_are_resolved(spec_file):
    spec = load_spec(spec_file(MINIMAL + "  batch_size: 7\nvalidation_ds:\n  batch_size: ${training_ds.batch_size}\n"))
    assert spec.validation_ds.batch_size == 7


def test_the_last_override_wins(spec_file):
    assert load_spec(spec_file(MINIMAL), ["optim.lr=1e-3", "optim.lr=2e-3"]).optim.lr == 2e-3


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL + "optim:\n  learning_rate: 1\n", [], r"optim.learning_rate: no such key: allowed here: name, lr"),
        (MINIMAL + "trainer:\n  max_epoch: 1\n", [], "trainer.max_epoch: no such key: did you mean max_epochs?"),
        (MINIMAL + "trainer:\n  max_epochs: two\n", [], "trainer.max_epochs: expected int, got 'two'"),
        (MINIMAL + "trainer: 3\n", [], "trainer: expected keys below it, got 3"),
        (MINIMAL + "trainer:\n  precision: 64\n", [], "trainer.precision: must be 32, 16 or bf16, got '64'"),
        (MINIMAL + "optim:\n  name: no\n", [], "optim.name"),
        (MINIMAL + "optim:\n  lr: -1e-3\n", [], "optim.lr: must be above 0"),
        (MINIMAL + "optim:\n  sched:\n    name: Noam\n", [], "optim.sched.name: must be WarmupAnnealing or Cosine"),
        (MINIMAL + "model:\n  dataset:\n    max_seq_length: 100\n", [], "model.dataset: max_seq_length 100 is too"),
        ("restore_from: ???\n", [], "restore_from is \\?\\?\\?, a value that must be given"),
        ("restore_from: base\n", [], "training_ds.file: must be a file or a list of files"),
        (MINIMAL, ["+optim.lr=1"], r"'\+optim.lr=1' is not an override: write key=value"),
        (MINIMAL, ["optim.lr"], "'optim.lr' is not an override"),
        (MINIMAL + "x: ${nowhere}\n", [], "nowhere"),
        ("{file: ???}\n: [", [], "not a YAML spec"),
        ("- a\n- b\n", [], "a spec is a mapping of keys"),
        (MINIMAL, ["training_ds.num_samples=0"], "training_ds.num_samples: must be -1 or above 0, got 0"),
    ],
)
def test_a_mistake_is_named_with_its_key(spec_file, text, overrides, message):
    with pytest.raises(SpecError, match=message):
        load_spec(spec_file(text), overrides)


def test_a_missing_spec_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.yaml: no such spec"):
        load_spec(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("name", ["WarmupAnnealing", "CosineAnnealing"])
def test_the_learning_rate_warms_up_to_one_and_decays_to_zero(name):
    schedule = ScheduleSpec(name=name, warmup_ratio=0.1)
    factors = [learning_rate_factor(step, 100, schedule) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.02
