"""Megatron-LM's checkpoints of BERT become checkpoints that compute what transformers' MegatronBert computes."""

from __future__ import annotations

import argparse
import enum
import functools
import itertools
import random
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from transformers import MegatronBertConfig, MegatronBertForPreTraining, MegatronBertForQuestionAnswering

from spanqa.cli import main
from spanqa.tokenization import load_tokenizer
from spanqa_training.checkpoints.checkpoint import load_checkpoint, load_lm_head
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.megatron import megatron_file
from spanqa_training.weights.megatron_names import MEGATRON_KEYS, split_query_key_value
from spanqa_training.weights.recognition import ImportOptions, import_model
from spanqa_training.weights.renaming import expanded_keys, renamed_weights
from spanqa_training.weights.vocabulary import rows_without_padding

HIDDEN_SIZE, N_HEADS, N_LAYERS = 128, 2, 2
FILE = "model_optim_rng.pt"


@pytest.fixture(scope="module")
def oracle(vocabulary_file):
    """A random model of transformers, with a masked-LM head and a pooler."""
    config = MegatronBertConfig(
        vocab_size=load_tokenizer(vocabulary_file).vocab_size,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=160,
        max_position_embeddings=400,
        layer_norm_eps=1e-5,
    )
    torch.manual_seed(11)
    model = MegatronBertForPreTraining(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def folder(tmp_path, vocabulary_file):
    """A folder with the vocabulary, for a file beside it."""
    (tmp_path / "vocab.txt").write_bytes(vocabulary_file.read_bytes())
    return tmp_path


def fused(query, key, value, version):
    """Megatron-LM's order of rows, row by row."""
    size = len(query) // N_HEADS
    three, rows = [query, key, value], range(len(query))
    if version < 1:
        order = [(part, row) for part in range(3) for row in rows]
    elif version < 2:
        order = [(part, row) for row in rows for part in range(3)]
    else:
        heads = range(N_HEADS)
        order = [(part, head * size + row) for head in heads for part in range(3) for row in range(size)]
    return torch.stack(three)[[part for part, _ in order], [row for _, row in order]]


def layer_weights(layer, number, version, attention):
    own = layer.attention.self
    names = {
        "input_layernorm": layer.attention.ln,
        f"{attention}.dense": layer.attention.output.dense,
        "post_attention_layernorm": layer.ln,
        "mlp.dense_h_to_4h": layer.intermediate.dense,
        "mlp.dense_4h_to_h": layer.output.dense,
    }
    weights = {}
    for part in ("weight", "bias"):
        weights |= {f"layers.{number}.{name}.{part}": getattr(module, part) for name, module in names.items()}
        three = [getattr(module, part) for module in (own.query, own.key, own.value)]
        weights[f"layers.{number}.{attention}.query_key_value.{part}"] = fused(*three, version)
    return weights


def padded(rows, n_rows):
    """Rows of noise beyond the vocabulary."""
    return torch.cat([rows, torch.full((n_rows - len(rows), *rows.shape[1:]), 7.0)])


def megatron_state(model, *, version=None, attention="self_attention", transformer="encoder", n_rows=None, types=True):
    """What Megatron-LM's BertModel saves, nested."""
    bert = model.bert
    words = bert.embeddings.word_embeddings.weight
    n_rows = n_rows or -(-len(words) // 128) * 128
    weights = {f"final_layernorm.{part}": getattr(bert.encoder.ln, part) for part in ("weight", "bias")}
    for number, layer in enumerate(bert.encoder.layer):
        weights |= layer_weights(layer, number, version or 0, attention)
    embedding = {
        "word_embeddings": {"weight": padded(words, n_rows)},
        "position_embeddings": {"weight": bert.embeddings.position_embeddings.weight},
    }
    if types:
        embedding["tokentype_embeddings"] = {"weight": bert.embeddings.token_type_embeddings.weight}
    head = model.cls.predictions
    lm_head = {"bias": padded(head.bias, n_rows)}
    for part in ("weight", "bias"):
        lm_head[f"dense.{part}"] = getattr(head.transform.dense, part)
        lm_head[f"layernorm.{part}"] = getattr(head.transform.LayerNorm, part)
    return detached(
        {
            "language_model": {
                "embedding": embedding,
                transformer: weights,
                "pooler": {f"dense.{part}": getattr(bert.pooler.dense, part) for part in ("weight", "bias")},
            },
            "lm_head": lm_head,
            "binary_head": {"weight": model.cls.seq_relationship.weight, "bias": model.cls.seq_relationship.bias},
        }
    )


def detached(tree):
    if isinstance(tree, dict):
        return {key: detached(value) for key, value in tree.items()}
    return tree.detach().clone()


def flat(tree, prefix=""):
    """Dotted names in one dictionary."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {name: tensor for key, value in tree.items() for name, tensor in flat(value, f"{prefix}{key}.").items()}


def arguments(**changes):
    said = {
        "hidden_size": HIDDEN_SIZE,
        "num_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "ffn_hidden_size": 160,
        "max_position_embeddings": 400,
        "layernorm_epsilon": 1e-5,
        "hidden_dropout": 0.15,
        "attention_dropout": 0.05,
        "bias_gelu_fusion": True,
        "openai_gelu": False,
        "onnx_safe": None,
        "apply_residual_connection_post_layernorm": False,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "params_dtype": torch.float16,
    }
    return argparse.Namespace(**{**said, **changes})


def write(path, state, *, zipped=True, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state, "iteration": 3, **content}, path, _use_new_zipfile_serialization=zipped)
    return path


def batch(vocab_size):
    """Three windows, two padded."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[1] * 40, [1] * 17 + [0] * 23, [1] * 3 + [0] * 37])
    ids = torch.randint(1, vocab_size, mask.shape, generator=generator) * mask
    return ids, mask, (torch.arange(40) > 8).long() * mask


@functools.cache
def logits_of_transformers(source, zero_types, hidden_act):
    """Of its question answering model with the source's encoder and the head that seed 0 draws."""
    config = MegatronBertConfig(**{**source.config.to_dict(), "hidden_act": hidden_act})
    model = MegatronBertForQuestionAnswering(config).eval()
    encoder = {name: t for name, t in source.bert.state_dict().items() if not name.startswith("pooler")}
    if zero_types:
        encoder["embeddings.token_type_embeddings.weight"] = torch.zeros(2, HIDDEN_SIZE)
    model.bert.load_state_dict(encoder)
    torch.nn.init.normal_(model.qa_outputs.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.qa_outputs.bias)
    ids, mask, types = batch(config.vocab_size)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, token_type_ids=types)
    return model.qa_outputs.weight.detach(), expected.start_logits, expected.end_logits


def assert_same_logits(imported, source, *, zero_types=False, hidden_act="gelu"):
    head, *expected = logits_of_transformers(source, zero_types, hidden_act)
    assert torch.equal(imported.model.head.weight, head)
    ids, mask, types = batch(source.config.vocab_size)
    with torch.no_grad():
        got = imported.model(ids, mask, types)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("with_arguments", [True, False], ids=["arguments", "shapes"])
@pytest.mark.parametrize("attention", ["attention", "self_attention"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("version", [None, 0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_logits_equal_those_of_transformers(oracle, folder, zipped, version, nested, attention, with_arguments):
    state = megatron_state(oracle, version=version, attention=attention)
    more = {} if version is None else {"checkpoint_version": version}
    if with_arguments:
        more["args"] = arguments()
    path = write(folder / FILE, state if nested else flat(state), zipped=zipped, **more)
    imported = import_model(path)
    assert_same_logits(imported, oracle)
    assert imported.checkpoint.encoder.layer_norm == "pre"
    assert imported.checkpoint.provenance["checkpoint_version"] == (version or 0)


@pytest.mark.parametrize("version", [0, 3.0])
@pytest.mark.parametrize("transformer", ["transformer", "encoder"])
@pytest.mark.parametrize("below", ["model", "top", "language_model"])
def test_every_nesting_is_understood(oracle, folder, below, transformer, version):
    state = megatron_state(oracle, version=version, transformer=transformer)
    content = {"model": {"model": state}, "top": state, "language_model": state["language_model"]}[below]
    torch.save({**content, "checkpoint_version": version}, folder / FILE)
    imported = import_model(folder / FILE)
    assert_same_logits(imported, oracle)
    assert bool(imported.lm_head) == (below != "language_model")


def test_the_names_of_later_releases_are_understood(oracle, folder):
    """Norms are called so, not layernorms, and their epsilon likewise."""
    state = flat(megatron_state(oracle, version=3.0))
    norms = {
        ".input_layernorm.": ".input_norm.",
        ".post_attention_layernorm.": ".post_attention_norm.",
        ".final_layernorm.": ".final_norm.",
        "lm_head.layernorm.": "lm_head.norm.",
    }
    renamed = {}
    for name, tensor in state.items():
        for old, new in norms.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    assert sum(".norm." in name or "_norm." in name for name in renamed) == 2 * (2 * N_LAYERS + 2)
    said = vars(arguments(norm_epsilon=1e-4))
    del said["layernorm_epsilon"]
    path = write(folder / FILE, renamed, args=argparse.Namespace(**said), checkpoint_version=3.0)
    imported = import_model(path, ImportOptions(layer_norm_eps=1e-5))
    assert_same_logits(imported, oracle)
    expected = import_model(
        write(folder / "older" / FILE, state, checkpoint_version=3.0), ImportOptions(tokenizer=folder)
    )
    assert imported.lm_head.keys() == expected.lm_head.keys()
    assert all(torch.equal(tensor, expected.lm_head[name]) for name, tensor in imported.lm_head.items())
    assert import_model(path).checkpoint.encoder.layer_norm_eps == 1e-4


def test_everything_that_megatron_saves_beside_the_weights_is_no_hindrance(oracle, folder, monkeypatch):
    module = types.ModuleType("megatron.model.enums")
    module.ModelType = enum.Enum("ModelType", {"encoder_or_decoder": 1}, module=module.__name__)
    for name in ("megatron", "megatron.model", "megatron.model.enums"):
        monkeypatch.setitem(sys.modules, name, module)
    path = write(
        folder / FILE,
        {name: tensor.half() for name, tensor in flat(megatron_state(oracle, version=3.0)).items()},
        args=arguments(model_type=module.ModelType.encoder_or_decoder),
        checkpoint_version=3.0,
        optimizer={"state": [torch.ones(3)], "loss_scaler": argparse.Namespace(scale=2.0)},
        rng_state=[{"np_rng_state": np.random.get_state(), "random_rng_state": random.getstate()}],
    )
    monkeypatch.undo()
    imported = import_model(path)
    half = MegatronBertForPreTraining(oracle.config).eval()
    half.load_state_dict({name: tensor.half().float() for name, tensor in oracle.state_dict().items()})
    assert_same_logits(imported, half)
    assert {parameter.dtype for parameter in imported.model.parameters()} == {torch.float32}


def test_the_renaming_table_is_one_to_one_and_renames_back():
    keys = expanded_keys(MEGATRON_KEYS, 24)
    assert len(set(keys.values())) == len(keys)
    theirs = {name: torch.full((2,), float(number)) for number, name in enumerate(keys.values())}
    ours = renamed_weights(theirs, keys)
    back = renamed_weights(ours, {theirs_name: ours_name for ours_name, theirs_name in keys.items()})
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("shape", [(HIDDEN_SIZE, 7), (HIDDEN_SIZE,)], ids=["weight", "bias"])
@pytest.mark.parametrize("version", [0.0, 0.9, 1.0, 1.5, 2.0, 3.0])
def test_fused_attention_weights_are_cut_by_version(version, shape):
    parts = [torch.randn(shape) for _ in range(3)]
    split = split_query_key_value(fused(*parts, version), version=version, num_heads=N_HEADS)
    for got, expected in zip(split, parts, strict=True):
        assert torch.equal(got, expected)
        assert got.is_contiguous()


def test_the_order_of_another_version_computes_something_else(oracle, folder):
    for written, said in itertools.permutations([0, 1.0, 2.0], 2):
        path = write(folder / FILE, megatron_state(oracle, version=written), checkpoint_version=said)
        with pytest.raises(AssertionError):
            assert_same_logits(import_model(path), oracle)


def test_absent_token_types_become_zeros(oracle, folder):
    imported = import_model(write(folder / FILE, megatron_state(oracle, types=False)))
    assert not imported.model.embeddings.token_type.weight.any()
    assert_same_logits(imported, oracle, zero_types=True)


def test_the_masked_lm_head_is_kept_and_cut_with_the_vocabulary(oracle, folder):
    lm_head = import_model(write(folder / FILE, megatron_state(oracle))).lm_head
    head = oracle.cls.predictions
    expected = {
        "transform.weight": head.transform.dense.weight,
        "transform.bias": head.transform.dense.bias,
        "norm.weight": head.transform.LayerNorm.weight,
        "norm.bias": head.transform.LayerNorm.bias,
        "bias": head.bias,
    }
    assert lm_head.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(lm_head[name], tensor), name


def test_arguments_give_the_architecture_and_the_user_has_the_last_word(oracle, folder):
    said = arguments(layernorm_epsilon=1e-6, init_method_std=0.01)
    imported = import_model(write(folder / FILE, megatron_state(oracle), args=said))
    encoder, provenance = imported.checkpoint.encoder, imported.checkpoint.provenance
    assert (encoder.layer_norm_eps, encoder.dropout, encoder.attention_dropout) == (1e-6, 0.15, 0.05)
    assert encoder.initializer_range == 0.01
    assert (encoder.activation, provenance["activation_of_source"]) == ("gelu", "gelu_tanh")
    path = write(folder / FILE, megatron_state(oracle), args=arguments(layernorm_epsilon=1e-6))
    options = ImportOptions(layer_norm_eps=1e-5, activation="gelu_tanh", config={"hidden_dropout_prob": 0.3})
    imported = import_model(path, options)
    assert imported.checkpoint.encoder.dropout == 0.3
    assert_same_logits(imported, oracle, hidden_act="gelu_new")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bias_gelu_fusion": False}, "gelu"),
        ({"bias_gelu_fusion": False, "onnx_safe": True}, "gelu"),
        ({"bias_gelu_fusion": False, "openai_gelu": True}, "gelu_tanh"),
    ],
)
def test_the_activation_that_the_arguments_name_is_recorded(oracle, folder, changes, expected):
    imported = import_model(write(folder / FILE, megatron_state(oracle), args=arguments(**changes)))
    assert imported.checkpoint.provenance["activation_of_source"] == expected


def test_without_arguments_the_defaults_are_megatrons(oracle, folder):
    imported = import_model(write(folder / FILE, megatron_state(oracle)))
    encoder = imported.checkpoint.encoder
    assert (encoder.layer_norm_eps, encoder.activation, encoder.num_heads) == (1e-5, "gelu", HIDDEN_SIZE // 64)
    assert imported.checkpoint.provenance["activation_of_source"] is None
    assert import_model(folder / FILE, ImportOptions(num_heads=4)).checkpoint.encoder.num_heads == 4


def test_heads_of_an_unusual_width_must_be_told(oracle, folder):
    state = flat(megatron_state(oracle))
    narrow = {name: tensor[..., :100] if tensor.shape[-1] == HIDDEN_SIZE else tensor for name, tensor in state.items()}
    with pytest.raises(ImportWeightsError, match="lacks 'num_attention_heads': give a whole one, or what it lacks"):
        import_model(write(folder / FILE, narrow))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tensor_model_parallel_size": 2},
            r"one of several shards \(tensor_model_parallel_size is 2\): merge the shards",
        ),
        ({"pipeline_model_parallel_size": 4}, r"one of several shards \(pipeline_model_parallel_size is 4\)"),
        ({"model_parallel_size": 8}, "merge_mp_partitions"),
        (
            {"apply_residual_connection_post_layernorm": True},
            "was trained with apply_residual_connection_post_layernorm",
        ),
        ({"squared_relu": True}, "was trained with squared_relu, which our encoder does not compute"),
        ({"num_layers": 1}, r"holds encoder\.layers\.1\..* and 11 more weights, which the encoder"),
        ({"num_layers": 3}, r"lacks encoder\.layers\.2\.input_layernorm\.weight and 11 more weights"),
        ({"ffn_hidden_size": 161}, r"layers\.0\.expand\.weight has shape \(160, 128\) and .* \(161, 128\)"),
        (
            {"hidden_size": 64},
            r"query_key_value\.weight has shape \(384, 128\) and the configuration asks for 192 rows",
        ),
        ({"num_attention_heads": 3}, "hidden_size 128 is not a multiple of num_heads 3"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(oracle, folder, changes, message):
    path = write(folder / FILE, megatron_state(oracle), args=arguments(**changes))
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: .*{message}") as caught:
        import_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list instead of weights by name"),
        ({"model": torch.ones(2)}, "holds a Tensor instead of weights by name"),
        ({"bert.embeddings.word_embeddings.weight": torch.ones(2, 2)}, "holds 0 encoders of Megatron-LM"),
        ({"a": {"embedding.word_embeddings.weight": torch.ones(2, 2)}, "b.embedding.word_embeddings.weight":
          torch.ones(2, 2)}, "holds 2 encoders of Megatron-LM"),
        ({"embedding.word_embeddings.weight": torch.ones(128, 2)}, r"lacks encoder\.layers\.0\.mlp"),
        ({"x.embedding.word_embeddings.weight": torch.ones(2), "checkpoint_version": "x"}, "version is 'x'"),
        ({"embedding.word_embeddings.weight": torch.ones(2)}, r"has shape \(2,\): a matrix is expected"),
    ],
)  # fmt: skip
def test_files_of_something_else_are_one_sentence(folder, content, message):
    torch.save(content, folder / FILE)
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: .*{message}"):
        import_model(folder / FILE)


def test_a_dictionary_that_holds_itself_is_no_endless_reading(folder):
    content = {"model": {}}
    content["model"]["again"] = content["model"]
    torch.save(content, folder / FILE)
    with pytest.raises(ImportWeightsError, match="holds 0 encoders"):
        import_model(folder / FILE)


LAYOUTS = {
    "beside": FILE,
    "rank": f"mp_rank_00/{FILE}",
    "release": f"release/mp_rank_00/{FILE}",
    "tracked release": f"release/mp_rank_00/{FILE}",
    "tracked iteration": f"iter_0001500/mp_rank_00/{FILE}",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_file_is_found_where_megatron_keeps_it(oracle, folder, layout):
    path = write(folder / LAYOUTS[layout], megatron_state(oracle))
    if layout.startswith("tracked"):
        said = "release" if "release" in layout else "1500\n"
        (folder / "latest_checkpointed_iteration.txt").write_text(said)
    assert megatron_file(folder) == path
    assert_same_logits(import_model(folder), oracle)


@pytest.mark.parametrize("said", ["../../elsewhere", "", "-1", "\xff"])
def test_a_tracker_that_names_no_iteration_is_refused(oracle, folder, said):
    write(folder / f"release/mp_rank_00/{FILE}", megatron_state(oracle))
    (folder / "latest_checkpointed_iteration.txt").write_text(said)
    with pytest.raises(ImportWeightsError, match="it must be release or the number of an iteration"):
        import_model(folder)


@pytest.mark.parametrize("sibling", ["mp_rank_01", "mp_rank_00_001"])
def test_a_shard_among_others_is_refused_with_the_way_out(oracle, folder, sibling):
    path = write(folder / f"release/mp_rank_00/{FILE}", megatron_state(oracle))
    (folder / "release" / sibling).mkdir()
    for source in (path, folder):
        with pytest.raises(ImportWeightsError, match=rf"several shards \({sibling} is beside it\): merge the shards"):
            import_model(source)


def test_the_zip_of_ngc_is_read(oracle, folder):
    written = write(folder / "written" / FILE, megatron_state(oracle), zipped=False)
    zip_path = folder / "megatron_bert_345m_v0.1_uncased.zip"
    with zipfile.ZipFile(zip_path, "w") as archive:
        archive.writestr("latest_checkpointed_iteration.txt", "release")
        archive.write(written, f"release/mp_rank_00/{FILE}")
    assert_same_logits(import_model(zip_path), oracle)
    with zipfile.ZipFile(zip_path, "a") as archive:
        archive.write(written, f"release/mp_rank_01/{FILE}")
    with pytest.raises(ImportWeightsError, match=r"zip: holds several shards \(release/mp_rank_00/.*merge the shards"):
        import_model(zip_path)


def test_a_damaged_zip_names_the_zip(oracle, folder):
    written = write(folder / "written" / FILE, megatron_state(oracle))
    zip_path = folder / "download.zip"
    with zipfile.ZipFile(zip_path, "w") as archive:
        archive.write(written, f"release/mp_rank_00/{FILE}")
    content = bytearray(zip_path.read_bytes())
    content[len(content) // 2] ^= 255
    zip_path.write_bytes(content)
    with pytest.raises(ImportWeightsError, match=r"download\.zip: release/mp_rank_00/.* cannot be unpacked: fetch"):
        import_model(zip_path)


class Sized:
    """A tokenizer of so many tokens."""

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size


@pytest.mark.parametrize(
    ("n_rows", "size"), [(30592, 30522), (29056, 28996), (30522, 30522), (30720, 30522), (29184, 28996)]
)
def test_rows_of_megatrons_own_padding_are_cut(n_rows, size):
    """To a multiple of 128 times the shards that the weights were once cut into."""
    assert rows_without_padding(n_rows, Sized(size)) == size


@pytest.mark.parametrize(("n_rows", "size"), [(30592, 28996), (29056, 30522), (30592, 30521 - 64), (30523, 30522)])
def test_rows_of_another_vocabulary_are_refused_with_both_sizes(n_rows, size):
    message = rf"has {n_rows:,} rows, and the tokenizer has {size:,} tokens.*cased vocabulary \(28,996 tokens"
    with pytest.raises(ImportWeightsError, match=message):
        rows_without_padding(n_rows, Sized(size))


def test_the_wrong_vocabulary_is_refused_and_the_right_one_can_be_given(oracle, folder, vocabulary_file):
    path = write(folder / FILE, megatron_state(oracle))
    lines = vocabulary_file.read_text(encoding="utf-8").splitlines()
    (folder / "vocab.txt").write_text("\n".join(lines[:100]), encoding="utf-8")
    with pytest.raises(ImportWeightsError, match=r"the tokenizer has 100 tokens.*\(--tokenizer\)"):
        import_model(path)
    imported = import_model(path, ImportOptions(tokenizer=vocabulary_file))
    assert imported.checkpoint.encoder.vocab_size == len(lines)
    assert_same_logits(imported, oracle)


def test_a_vocabulary_under_googles_name_is_found_unless_there_are_two(oracle, folder):
    path = write(folder / FILE, megatron_state(oracle))
    (folder / "vocab.txt").rename(folder / "bert-large-uncased-vocab.txt")
    assert_same_logits(import_model(path), oracle)
    (folder / "bert-large-cased-vocab.txt").write_text("[UNK]")
    with pytest.raises(ImportWeightsError, match=r"no tokenizer\.json or vocab\.txt there"):
        import_model(path)


def test_the_command_saves_what_it_took_over(oracle, folder, capsys):
    path = write(folder / FILE, megatron_state(oracle, version=3.0), checkpoint_version=3.0)
    assert main(["import", str(path), "-o", str(folder / "checkpoint.tlt")]) == 0
    assert "Megatron-LM file, megatron-bert, 2 layers of 128, 2 heads" in capsys.readouterr().out
    checkpoint, model = load_checkpoint(folder / "checkpoint.tlt")
    expected = import_model(path)
    assert checkpoint == expected.checkpoint
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert load_lm_head(folder / "checkpoint.tlt").keys() == expected.lm_head.keys()


def test_half_a_masked_lm_head_is_refused(oracle, folder):
    state = flat(megatron_state(oracle))
    del state["lm_head.dense.bias"]
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: lacks dense\.bias"):
        import_model(write(folder / FILE, state))


FIRST_OUTPUT = "language_model.encoder.layers.0.self_attention.dense.weight"
HOSTILE_WEIGHTS = {
    "one number over and over": (torch.ones(1).expand(2**21, 2**21), "holds .*: some overlap or repeat one number"),
    "sparse": (
        torch.ones(128, 128).to_sparse(),
        f"{FIRST_OUTPUT[15:]} is sparse_coo of float32: weights must be dense",
    ),
    "without content": (torch.empty(128, 128, device="meta"), "is without content"),
    "integers": (torch.ones(128, 128, dtype=torch.int8), "is strided of int8: weights must be dense and of floats"),
}


@pytest.mark.parametrize("kind", HOSTILE_WEIGHTS)
def test_weights_that_are_no_plain_floats_are_refused_before_any_is_copied(oracle, folder, kind):
    weight, message = HOSTILE_WEIGHTS[kind]
    state = {**flat(megatron_state(oracle)), FIRST_OUTPUT: weight}
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: .*{message}") as caught:
        import_model(write(folder / FILE, state))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor_model_parallel_size": torch.ones(2)}, "tensor_model_parallel_size is Tensor: it must be a number"),
        ({"bias_gelu_fusion": torch.ones(2)}, "bias_gelu_fusion is Tensor: it must be a number"),
        ({"squared_relu": [1]}, "squared_relu is list: it must be a number"),
        ({"hidden_size": torch.ones(2)}, "hidden_size is Tensor"),
        ({"num_layers": 10**7}, r"lacks encoder\.layers\.2\."),
        ({"hidden_size": 2**60, "num_attention_heads": 2}, ""),
        ({"num_layers": 10**5000}, ""),
    ],
)
def test_hostile_arguments_are_one_sentence(oracle, folder, changes, message):
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: .*{message}") as caught:
        import_model(write(folder / FILE, megatron_state(oracle), args=arguments(**changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [10**400, float("nan"), float("inf"), -1, "x", torch.ones(2)])
def test_a_version_that_is_none_is_one_sentence(oracle, folder, version):
    path = write(folder / FILE, megatron_state(oracle), checkpoint_version=version)
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: checkpoint_version .*must be a number") as caught:
        import_model(path)
    assert "\n" not in str(caught.value)
