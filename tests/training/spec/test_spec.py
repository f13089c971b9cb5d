"""Specs: every shipped one is sound, old keys mean what they meant, every mistake is named with its key."""

import dataclasses
import json

import pytest

from spanqa.windows import WindowSettings
from spanqa_training.errors import SpecError
from spanqa_training.optimization.schedules import Schedule
from spanqa_training.spec.files import load_spec, spec_yaml
from spanqa_training.spec.old_keys import MOVED, ONLY, REPLACED
from spanqa_training.spec.schema import Spec

ALL = set(Spec.__dataclass_fields__)
NEMO = """
trainer:
  gpus: 1
  num_nodes: 1
  max_epochs: 2
  max_steps: null
  accumulate_grad_batches: 1
  precision: 16
  amp_level: O1
  distributed_backend: ddp
  gradient_clip_val: 0.0
  val_check_interval: 1.0
  checkpoint_callback: false
  logger: false
  num_sanity_val_steps: 0
  row_log_interval: 1
model:
  nemo_path: null
  dataset:
    version_2_with_negative: false
    doc_stride: 128
    max_query_length: 64
    max_seq_length: 384
    max_answer_length: 30
    null_score_diff_threshold: 0.0
    n_best_size: 20
    use_cache: true
    do_lower_case: true
    num_workers: 2
    pin_memory: false
    drop_last: false
  train_ds:
    file: train.json
    batch_size: 24
    shuffle: true
    num_samples: -1
    num_workers: ${model.dataset.num_workers}
  validation_ds:
    file: dev.json
    batch_size: 24
    shuffle: false
    num_samples: -1
  optim:
    name: adamw
    lr: 3e-5
    betas: [0.9, 0.999]
    weight_decay: 0.0
    sched:
      name: SquareRootAnnealing
      warmup_steps: null
      warmup_ratio: 0.0
      last_epoch: -1
      monitor: val_loss
      reduce_on_plateau: false
"""


@pytest.fixture
def spec_file(tmp_path):
    def write(text):
        path = tmp_path / "spec.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def notes():
    return []


@pytest.fixture
def load(spec_file, notes):
    """Loads a spec's text; every section may be used."""

    def read(text, *overrides, uses=ALL):
        return load_spec(spec_file(text), overrides, uses=uses, warn=notes.append)

    return read


def test_every_shipped_spec_is_sound_once_its_open_values_are_given(root, notes):
    specs = sorted((root / "training" / "specs").glob("*.yaml"))
    assert len(specs) == 16
    for path in specs:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        sections = ("training_ds", "finetuning_ds", "validation_ds", "test_ds", "infer_ds")
        overrides = [f"{name}.file=[a.json,b.json]" for name in sections if f"{name}:" in text]
        overrides += ["model.tokenizer.vocab_file=vocab.txt"] if "vocab_file: ???" in text else []
        overrides += ["restore_from=base"] if "restore_from: ???" in text else []
        loaded = load_spec(path, overrides, uses=ALL, warn=notes.append)
        assert all(getattr(loaded.spec, name).file == ("a.json", "b.json") for name in sections if f"{name}:" in text)
    assert notes == []


def test_the_published_recipe_of_megatron_is_in_its_spec(root, notes):
    path = root / "training" / "specs" / "megatron_345m_squad2.yaml"
    spec = load_spec(path, ["training_ds.file=t", "validation_ds.file=v"], uses=ALL, warn=notes.append).spec
    assert (spec.trainer.max_epochs, spec.trainer.precision, spec.trainer.gpus) == (2, "16", 2)
    assert spec.training_ds.batch_size == 12
    assert spec.model.language_model.pretrained_model_name == "megatron-bert-345m-uncased"


def test_what_a_spec_leaves_out_is_as_in_the_old_toolkit(load):
    spec = load("").spec
    assert spec.window_settings(WindowSettings()) == WindowSettings(
        max_seq_length=384, doc_stride=128, max_query_length=64
    )
    assert (spec.trainer.max_epochs, spec.trainer.precision, spec.trainer.gradient_clip_val) == (2, "16", 0.0)
    assert (spec.training_ds.batch_size, spec.training_ds.num_samples, spec.training_ds.shuffle) == (24, -1, True)
    assert (spec.optim.name, spec.optim.lr, spec.optim.betas, spec.optim.weight_decay) == (
        "adamw",
        3e-5,
        (0.9, 0.999),
        0,
    )
    assert spec.optim.sched.name == "SquareRootAnnealing"
    assert (spec.model.dataset.n_best_size, spec.model.dataset.num_workers) == (20, 2)
    assert spec.model.language_model.pretrained_model_name == "bert-base-uncased"


def test_nemos_spec_is_read_under_the_names_here(load, notes):
    spec = load(NEMO).spec
    assert (spec.training_ds.file, spec.validation_ds.file) == (("train.json",), ("dev.json",))
    assert spec.training_ds.num_workers == 2
    assert spec.trainer.log_every_n_steps == 1
    assert spec.model.dataset.version_2_with_negative is False
    assert notes == [f"{old} is read as {new}" for old, new in MOVED.items() if old in notes_in(notes)]
    assert "model.train_ds is read as training_ds" in notes


def notes_in(notes):
    return [note.split(" ")[0] for note in notes]


def test_a_resolved_spec_reads_back_as_itself(load):
    spec = load(
        "restore_from: base\noptim:\n  lr: 1e-4\n  betas: [0.9, 0.98]\nmodel:\n  dataset:\n    doc_stride: 64\n"
    ).spec
    assert load(spec_yaml(spec)).spec == spec


def test_references_reach_other_keys_defaults_and_the_environment(load, monkeypatch):
    monkeypatch.setenv("SPANQA_TEST_DATA", "/data")
    spec = load(
        "training_ds:\n  file: ${oc.env:SPANQA_TEST_DATA}/train.json\n  batch_size: ${model.dataset.n_best_size}\n"
        "model:\n  tokenizer:\n    tokenizer_name: ${model.language_model.pretrained_model_name}\n"
    ).spec
    assert spec.training_ds.file == ("/data/train.json",)
    assert spec.training_ds.batch_size == 20
    assert spec.model.tokenizer.tokenizer_name == "bert-base-uncased"


def test_an_open_value_matters_only_to_the_command_that_reads_it(load, notes):
    text = "training_ds:\n  file: t.json\ntest_ds:\n  file: ???\n"
    assert load(text, uses={"training_ds"}).spec.training_ds.file == ("t.json",)
    assert notes == ["test_ds is not read by this command"]
    with pytest.raises(SpecError, match=r"test_ds\.file is \?\?\?, a value that must be given: add test_ds\.file="):
        load(text, uses={"test_ds"})


def test_an_open_value_between_braces_is_named_with_its_mend(load):
    with pytest.raises(SpecError, match=r'line 1 column 21: not valid YAML: .*: write "\?\?\?" in quotes'):
        load("training_ds: {file: ???, batch_size: 3}")
    with pytest.raises(SpecError, match=r"training_ds\.file is \?\?\?"):
        load('training_ds: {file: "???", batch_size: 3}')


@pytest.mark.parametrize("override", ["optim.lr=1e-3", "+optim.lr=1e-3", "++optim.lr=1e-3"])
def test_hydras_ways_to_set_a_key_set_it(load, override):
    assert load("optim:\n  lr: 1.0\n", override).spec.optim.lr == 1e-3


@pytest.mark.parametrize("override", ["~optim.sched", "~optim.sched.name", "~optim.sched.name=CosineAnnealing"])
def test_hydras_tilde_takes_a_key_out(load, override):
    sched = load("optim:\n  sched:\n    name: CosineAnnealing\n", override).spec.optim.sched
    assert sched.name == ("WarmupPolicy" if override == "~optim.sched" else "SquareRootAnnealing")
    with pytest.raises(SpecError, match=r"optim\.lr: the override cannot be applied: the spec holds no such key"):
        load("optim:\n  weight_decay: 0\n", "~optim.lr")


def test_later_overrides_win_and_lists_are_lists(load):
    spec = load("", "training_ds.file=a.json", "training_ds.file=[b.json,c d.json]", "optim.betas=[0.9,0.95]").spec
    assert spec.training_ds.file == ("b.json", "c d.json")
    assert spec.optim.betas == (0.9, 0.95)


@pytest.mark.parametrize("text", ["optim:\n  name: no\n", ""])
def test_no_is_a_name_and_not_false(load, text):
    with pytest.raises(SpecError, match=r"optim\.name: must be one of adamw, .*, got 'no'"):
        load(text, *([] if text else ["optim.name=no"]))


@pytest.mark.parametrize(("value", "meant"), [("16", "16"), ("bf16", "bf16"), ("32", "32"), ("'16'", "16")])
def test_a_precision_is_a_number_or_a_name(load, value, meant):
    assert load(f"trainer:\n  precision: {value}\n").spec.trainer.precision == meant


@pytest.mark.parametrize(("value", "number"), [("1e-3", 1e-3), ("5e-06", 5e-6), ("3E5", 3e5), (".5", 0.5), ("1", 1.0)])
def test_numbers_without_a_point_are_numbers(load, value, number):
    assert load(f"optim:\n  lr: {value}\n").spec.optim.lr == number
    assert load("", f"optim.lr={value}").spec.optim.lr == number


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("optim:\n  name: adamw\n  lr: 5e-6\n", []),
        ("model:\n  optim:\n    lr: 5e-6\n", []),
        ("optim:\n  lr: 5e-6\n  sched: null\n", []),
        ("optim:\n  lr: 5e-6\n  sched:\n    name: CosineAnnealing\n", ["optim.sched=null"]),
        ("", ["optim.sched=null", "optim.lr=5e-6"]),
    ],
)
def test_an_optimiser_without_a_schedule_keeps_its_rate(load, text, overrides):
    optim = load(text, *overrides).spec.optim
    schedule = Schedule(spec=optim.sched, lr=optim.lr, n_steps=100, width=8)
    assert {schedule.at(step) for step in range(100)} == {5e-6}


def test_a_single_override_of_the_optimiser_leaves_the_default_schedule(load):
    assert load("", "optim.lr=1e-4").spec.optim.sched == Spec().optim.sched


@pytest.mark.parametrize("key", ["trainer.gpus", "trainer.devices"])
def test_a_list_of_gpus_is_their_number_and_said(load, notes, key):
    assert load("", f"{key}=[2, 5]").spec.trainer.gpus == 2
    assert notes[-1] == "trainer.gpus [2, 5] is read as their number, 2: $CUDA_VISIBLE_DEVICES chooses which"


def test_max_steps_of_minus_one_is_none(load):
    assert load("trainer:\n  max_steps: -1\n").spec.trainer.max_steps is None


@pytest.mark.parametrize("key", ONLY)
def test_a_key_with_one_value_is_accepted_with_it_and_refused_with_another(load, key):
    assert load("", f"{key}={json.dumps(ONLY[key].allowed[0])}").spec == Spec()
    with pytest.raises(SpecError, match=f"{key}: must be .*, got 'another': "):
        load("", f"{key}=another")


@pytest.mark.parametrize("key", REPLACED)
def test_a_key_without_meaning_is_refused_with_what_replaces_it(load, key):
    with pytest.raises(SpecError, match=f"{key}: has no meaning here: .*: delete it"):
        load("", f"{key}=1")


@pytest.mark.parametrize("key", MOVED)
def test_a_key_given_under_both_of_its_names_is_refused(load, key):
    value = "{}" if "." not in key or key.startswith("model") else "1"
    with pytest.raises(SpecError, match=f"{key} and {MOVED[key]} are the same"):
        load("", f"{key}={value}", f"{MOVED[key]}={value}")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("trainer:\n  max_epoch: 1\n", [], "trainer.max_epoch: no such key: did you mean max_epochs?"),
        ("trainer:\n  lr: 1\n", [], r"trainer.lr: no such key: did you mean optim.lr\?"),
        ("zzz: 1\n", [], "zzz: no such key: allowed here: restore_from"),
        ("trainer:\n  max_epochs: two\n", [], "trainer.max_epochs: expected int, got 'two'"),
        ("trainer:\n  max_epochs: 1.5\n", [], "trainer.max_epochs: expected int, got 1.5"),
        ("trainer: 3\n", [], "trainer: expected keys below it, got 3"),
        ("trainer:\n  precision: 64\n", [], "trainer.precision: must be 32, 16 or bf16, got '64'"),
        ("trainer:\n  gpus: []\n", [], r"trainer.gpus: expected int, got \[\]"),
        ("trainer:\n  seed: -1\n", [], r"trainer.seed: must be in 0\.\.4294967295, got -1"),
        ("trainer:\n  save_every_s: .inf\n", [], "trainer.save_every_s: must be a finite number, got inf"),
        (
            "model:\n  dataset:\n    null_score_diff_threshold: .nan\n",
            [],
            "threshold: must be a finite number, got nan",
        ),
        ("optim:\n  lr: .inf\n", [], "optim.lr: must be a finite number, got inf"),
        ("", ["optim.weight_decay=.inf"], "optim.weight_decay: must be a finite number, got inf"),
        ("optim:\n  betas: [.nan, 0.9]\n", [], "optim.betas: must be a finite number, got nan"),
        (
            "optim:\n  lr: 1e-6\n  sched: {min_lr: 1e-5}\n",
            [],
            "optim.sched.min_lr: must be at most optim.lr 1e-06, got",
        ),
        ("trainer:\n  val_check_interval: 2.0\n", [], "trainer.val_check_interval: must be in 0..1"),
        ("optim:\n  lr: -1e-3\n", [], "optim.lr: must be above 0"),
        ("optim:\n  sched:\n    name: Noam\n", [], "optim.sched.name: must be one of SquareRootAnnealing"),
        ("optim:\n  sched:\n    warmup_steps: 5\n    warmup_ratio: 0.1\n", [], "contradict each other"),
        ("model:\n  dataset:\n    use_cache: yes\n", [], "model.dataset.use_cache: expected bool, got 'yes'"),
        ("model:\n  dataset:\n    keep_doc_spans: some\n", [], "keep_doc_spans: must be all, only_positive"),
        ("optim: {}\n", ["optim.lr"], "'optim.lr' is not an override: write key=value"),
        ("optim: {}\n", ["=3"], "'=' is not an override"),
        ("optim: {}\n", ["optim.lr=@x"], "optim.lr: the override cannot be applied: line 1 column 1: not valid YAML"),
        ("x: ${nowhere}\n", [], "nowhere"),
        ("trainer:\n  max_epochs: 1\n  max_epochs: 2\n", [], "line 3 column 3: not valid YAML: 'max_epochs' is given"),
        ("trainer:\n\tmax_epochs: 1\n", [], "line 2 column 1: .*: indent with spaces, not tabs"),
        ("? [a]\n: 1\n", [], "a key must be a word"),
        ("- a\n- b\n", [], "a spec is a mapping of keys"),
        ("test_ds:\n  num_samples: 0\n", [], "test_ds.num_samples: must be -1 or above 0, got 0"),
        ("export_format: TRT\n", [], "export_format: must be ONNX, RIVA, JARVIS, HF, got 'TRT'"),
    ],
)
def test_a_mistake_is_named_with_its_key_in_one_line(load, spec_file, text, overrides, message):
    with pytest.raises(SpecError, match=message) as caught:
        load(text, *overrides)
    assert "\n" not in str(caught.value)


def test_lengths_that_contradict_each_other_are_refused(load):
    spec = load("model:\n  dataset:\n    max_seq_length: 100\n").spec
    with pytest.raises(SpecError, match=r"model\.dataset: max_seq_length 100 is too short"):
        spec.window_settings(WindowSettings())


def test_a_restored_models_windows_stay_where_the_spec_says_nothing(load):
    restored = WindowSettings(max_seq_length=256, doc_stride=100, max_query_length=32)
    assert load("").spec.window_settings(restored) == restored
    assert load("", "model.dataset.doc_stride=64").spec.window_settings(restored).doc_stride == 64


def test_a_missing_or_unreadable_spec_is_named(tmp_path, notes):
    with pytest.raises(SpecError, match=r"nowhere\.yaml: no such spec: `spanqa download_specs"):
        load_spec(tmp_path / "nowhere.yaml", uses=ALL, warn=notes.append)
    (tmp_path / "latin.yaml").write_bytes(b"optim: \xe9\n")
    with pytest.raises(SpecError, match=r"latin\.yaml: cannot be read as a spec"):
        load_spec(tmp_path / "latin.yaml", uses=ALL, warn=notes.append)


def test_the_encryption_key_is_read_and_never_part_of_the_spec(load):
    loaded = load("encryption_key: from-the-spec\n", "encryption_key=from-the-command")
    assert loaded.encryption_key == "from-the-command"
    for shown in (spec_yaml(loaded.spec), repr(loaded), repr(loaded.spec)):
        assert "from-the" not in shown


@pytest.mark.parametrize(
    "override",
    ["encryption_key=@tell: nobody: x", "encryption_key.deeper=tell: @nobody", "=tell", "~encryption_key.x=tell"],
)
def test_an_override_that_fails_does_not_show_its_value(load, override):
    with pytest.raises(SpecError) as caught:
        load("encryption_key: tell-nobody\n", override)
    assert "tell" not in str(caught.value).replace("test_an_override_that_fails_does_not_show_its_value", "")


def documented(root):
    """Rows of the tables in training/README.md, by their first cell."""
    rows = {}
    for line in (root / "training" / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def keys_and_defaults(kind, prefix=""):
    for field in dataclasses.fields(kind):
        default = getattr(kind(), field.name)
        if dataclasses.is_dataclass(default):
            yield from keys_and_defaults(type(default), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", default


def test_every_key_is_documented_with_its_default(root):
    rows = documented(root)
    same_keys = ("finetuning_ds.", "validation_ds.", "test_ds.", "infer_ds.")
    wanted = {key: value for key, value in keys_and_defaults(Spec) if not key.startswith(same_keys)}
    assert wanted.keys() <= rows.keys()
    for key, default in wanted.items():
        shown = default if isinstance(default, str) else json.dumps(default)
        assert rows[key][0] == shown.replace("[]", "-"), key
    assert set(MOVED) | set(ONLY) | set(REPLACED) <= rows.keys()
    assert all(rows[old] == [f"`{new}`"] for old, new in MOVED.items())
