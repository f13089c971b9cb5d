"""What a command says of keys that it does not follow."""

import dataclasses

import pytest

from spanqa_training.commands.arguments import Request
from spanqa_training.commands.prepare import note_unused
from spanqa_training.spec.schema import Spec


@pytest.fixture
def told(tmp_path, capsys):
    """Gives what is said of some keys where a model is restored, and where a new one is made."""

    def tell(*given, restore_from="model.tlt"):
        spec = dataclasses.replace(Spec(), restore_from=restore_from)
        note_unused(Request(spec=spec, given=frozenset(given), key=None, results=tmp_path))
        return capsys.readouterr().err

    return tell


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("model.language_model.pretrained_model_name", "model.language_model.pretrained_model_name"),
        ("model.language_model.config.hidden_size", "model.language_model.config"),
        ("model.tokenizer.vocab_file", "model.tokenizer"),
        ("model.dataset.do_lower_case", "model.dataset.do_lower_case"),
    ],
)
def test_what_only_a_new_model_is_made_of_is_named_where_one_is_restored(told, given, named):
    assert told(given).strip() == (
        f"spanqa: note: the model is restored from model.tlt, so these are without effect: {named}"
    )
    assert told(given, restore_from=None) == ""


@pytest.mark.parametrize("name", ["dropout", "attention_dropout"])
def test_dropout_counts_for_a_restored_model_too(told, name):
    assert told(f"model.language_model.{name}") == ""
