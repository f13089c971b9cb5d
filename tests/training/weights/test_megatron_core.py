"""Megatron-Core's checkpoints of BERT become checkpoints that compute what transformers' MegatronBert computes."""

from __future__ import annotations

import argparse
import io
import os

import pytest
import torch
from transformers import MegatronBertConfig, MegatronBertForQuestionAnswering

from spanqa.tokenization import load_tokenizer
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.import_types import ImportOptions
from spanqa_training.weights.megatron_core_names import MEGATRON_CORE_KEYS
from spanqa_training.weights.recognition import import_model, is_importable
from spanqa_training.weights.renaming import expanded_keys, renamed_weights

HIDDEN_SIZE, N_HEADS, N_LAYERS = 128, 2, 2
FILE = "model_optim_rng.pt"


@pytest.fixture(scope="module")
def oracle(vocabulary_file):
    """A random model of transformers, whose span head is the one that seed 0 draws."""
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
    model = MegatronBertForQuestionAnswering(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.normal_(model.qa_outputs.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.qa_outputs.bias)
    return model


@pytest.fixture
def folder(tmp_path, vocabulary_file):
    """A folder with the vocabulary, for a file beside it."""
    (tmp_path / "vocab.txt").write_bytes(vocabulary_file.read_bytes())
    return tmp_path


def by_head(query, key, value):
    """Megatron-Core's rows: of each head its queries, its keys, its values."""
    size = HIDDEN_SIZE // N_HEADS
    rows = [part[head * size : (head + 1) * size] for head in range(N_HEADS) for part in (query, key, value)]
    return torch.cat(rows)


def layer_weights(layer, *, fused_norms):
    own = layer.attention.self
    norms = ("self_attention.linear_qkv.layer_norm_", "mlp.linear_fc1.layer_norm_")
    attention_norm, mlp_norm = norms if fused_norms else ("input_layernorm.", "pre_mlp_layernorm.")
    weights = {}
    for part in ("weight", "bias"):
        weights |= {
            f"{attention_norm}{part}": getattr(layer.attention.ln, part),
            f"self_attention.linear_qkv.{part}": by_head(*(getattr(m, part) for m in (own.query, own.key, own.value))),
            f"self_attention.linear_proj.{part}": getattr(layer.attention.output.dense, part),
            f"{mlp_norm}{part}": getattr(layer.ln, part),
            f"mlp.linear_fc1.{part}": getattr(layer.intermediate.dense, part),
            f"mlp.linear_fc2.{part}": getattr(layer.output.dense, part),
        }
    return weights


def core_state(model, *, fused_norms=True):
    """What Megatron-Core's BertModel saves, with every head that it has."""
    embeddings, encoder = model.bert.embeddings, model.bert.encoder
    words = embeddings.word_embeddings.weight
    n_rows = -(-len(words) // 128) * 128
    weights = {
        "embedding.word_embeddings.weight": torch.cat([words, torch.full((n_rows - len(words), HIDDEN_SIZE), 7.0)]),
        "embedding.position_embeddings.weight": embeddings.position_embeddings.weight,
        "embedding.tokentype_embeddings.weight": embeddings.token_type_embeddings.weight,
        "output_layer.bias": torch.arange(float(n_rows)),
        "binary_head.weight": torch.ones(2, HIDDEN_SIZE),
        "binary_head.bias": torch.ones(2),
    }
    for part, shape in (("weight", (HIDDEN_SIZE, HIDDEN_SIZE)), ("bias", (HIDDEN_SIZE,))):
        weights[f"encoder.final_layernorm.{part}"] = getattr(encoder.ln, part)
        weights[f"pooler.dense.{part}"] = torch.ones(shape)
        weights[f"lm_head.dense.{part}"] = torch.full(shape, 2.0)
        weights[f"lm_head.layer_norm.{part}"] = torch.full((HIDDEN_SIZE,), 3.0)
    for number, layer in enumerate(encoder.layer):
        of_layer = layer_weights(layer, fused_norms=fused_norms)
        weights |= {f"encoder.layers.{number}.{name}": tensor for name, tensor in of_layer.items()}
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def arguments(**changes):
    said = {
        "hidden_size": HIDDEN_SIZE,
        "num_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "ffn_hidden_size": 160,
        "max_position_embeddings": 400,
        "norm_epsilon": 1e-5,
        "bias_gelu_fusion": True,
        "group_query_attention": False,
        "num_query_groups": 1,
        "normalization": "LayerNorm",
        "position_embedding_type": "learned_absolute",
        "swiglu": False,
        "qk_layernorm": False,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
    }
    return argparse.Namespace(**{**said, **changes})


def write(path, state, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state, "iteration": 3, "checkpoint_version": 3.0, **content}, path)
    return path


def assert_same_logits(imported, oracle):
    mask = torch.tensor([[1] * 40, [1] * 17 + [0] * 23])
    ids = torch.randint(1, oracle.config.vocab_size, mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    types = (torch.arange(40) > 8).long() * mask
    with torch.no_grad():
        got = imported.model(ids, mask, types)
        expected = oracle(input_ids=ids, attention_mask=mask, token_type_ids=types)
    for ours, theirs in zip(got, (expected.start_logits, expected.end_logits), strict=True):
        torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("with_arguments", [True, False], ids=["arguments", "shapes"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("fused_norms", [True, False], ids=["fused norms", "separate norms"])
def test_logits_equal_those_of_transformers(oracle, folder, fused_norms, prefix, with_arguments):
    state = {f"{prefix}{name}": t for name, t in core_state(oracle, fused_norms=fused_norms).items()}
    imported = import_model(write(folder / FILE, state, **({"args": arguments()} if with_arguments else {})))
    assert_same_logits(imported, oracle)
    assert imported.checkpoint.encoder.layer_norm == "pre"
    assert imported.lm_head.keys() == {"transform.weight", "transform.bias", "norm.weight", "norm.bias", "bias"}
    assert torch.equal(imported.lm_head["bias"], torch.arange(float(oracle.config.vocab_size)))


def test_the_rows_of_attention_are_in_its_order_whatever_version_the_file_says(oracle, folder):
    assert_same_logits(import_model(write(folder / FILE, core_state(oracle), checkpoint_version=0)), oracle)


@pytest.mark.parametrize("extra", [io.BytesIO(b"scales"), io.BytesIO(), torch.ones(3, dtype=torch.uint8), None])
def test_the_extra_state_of_transformer_engine_is_left_out(oracle, folder, extra):
    state = core_state(oracle)
    for name in ("self_attention.core_attention", "self_attention.linear_qkv", "mlp.linear_fc1"):
        state[f"encoder.layers.0.{name}._extra_state"] = extra
    state |= {"encoder.final_layernorm._extra_state": extra, "lm_head.layer_norm._extra_state": extra}
    assert_same_logits(import_model(write(folder / FILE, state)), oracle)


def test_a_masked_lm_head_with_a_matrix_of_its_own_is_not_kept(oracle, folder):
    state = core_state(oracle)
    words = state["embedding.word_embeddings.weight"]
    tied = import_model(write(folder / FILE, {**state, "output_layer.weight": words.clone()}))
    untied = import_model(write(folder / FILE, {**state, "output_layer.weight": words + 1}))
    assert (bool(tied.lm_head), bool(untied.lm_head)) == (True, False)
    assert_same_logits(untied, oracle)


def test_the_renaming_table_is_one_to_one_and_renames_back():
    keys = expanded_keys(MEGATRON_CORE_KEYS, 24)
    assert len(set(keys.values())) == len(keys)
    theirs = {name: torch.full((2,), float(number)) for number, name in enumerate(keys.values())}
    back = renamed_weights(renamed_weights(theirs, keys), {name: ours for ours, name in keys.items()})
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"group_query_attention": True},
            r"was trained with group-query attention \(num_query_groups is 1\), and a BERT has one key",
        ),
        ({"group_query_attention": True, "num_query_groups": torch.ones(2)}, "num_query_groups is Tensor"),
        ({"normalization": "RMSNorm"}, "was trained with normalization 'RMSNorm', which our encoder does not compute"),
        ({"position_embedding_type": "rope"}, "was trained with position_embedding_type 'rope'"),
        ({"swiglu": True}, "was trained with swiglu True"),
        ({"qk_layernorm": torch.ones(2)}, "was trained with qk_layernorm Tensor"),
        (
            {"tensor_model_parallel_size": 2},
            r"\(tensor_model_parallel_size is 2\): merge .*tools/checkpoint/convert\.py",
        ),
        ({"pipeline_model_parallel_size": 2}, r"\(pipeline_model_parallel_size is 2\): merge the shards"),
        ({"num_layers": 3}, r"lacks encoder\.layers\.2\.self_attention\.linear_qkv\.layer_norm_weight and 11 more"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(oracle, folder, changes, message):
    path = write(folder / FILE, core_state(oracle), args=arguments(**changes))
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: .*{message}") as caught:
        import_model(path)
    assert "\n" not in str(caught.value)


def test_as_many_query_groups_as_heads_are_a_plain_attention(oracle, folder):
    said = arguments(group_query_attention=True, num_query_groups=N_HEADS)
    assert_same_logits(import_model(write(folder / FILE, core_state(oracle), args=said)), oracle)


def test_fewer_rows_than_three_a_head_are_refused_without_arguments_too(oracle, folder):
    state = core_state(oracle)
    for part in ("weight", "bias"):
        name = f"encoder.layers.1.self_attention.linear_qkv.{part}"
        state[name] = state[name][: HIDDEN_SIZE + 2 * (HIDDEN_SIZE // N_HEADS)].clone()
    with pytest.raises(ImportWeightsError, match=r"layers\.1\..* has shape \(256, 128\) and .* 384 rows"):
        import_model(write(folder / FILE, state))


def test_a_layer_norm_under_both_names_is_refused(oracle, folder):
    state = {**core_state(oracle), "encoder.layers.0.input_layernorm.weight": torch.ones(HIDDEN_SIZE)}
    with pytest.raises(ImportWeightsError, match="holds one layer norm twice"):
        import_model(write(folder / FILE, state))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_code_in_an_extra_state_is_not_run(oracle, folder):
    state = {**core_state(oracle), "encoder._extra_state": Hostile(f"touch {folder / 'ran'}")}
    with pytest.raises(ImportWeightsError, match="tries to run code when it is read"):
        import_model(write(folder / FILE, state))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(("first", "second"), [("mp_rank_00", "mp_rank_01"), ("mp_rank_00_000", "mp_rank_00_001")])
def test_a_shard_among_others_is_refused_with_the_way_out(oracle, folder, first, second):
    path = write(folder / "release" / first / FILE, core_state(oracle))
    (folder / "release" / second).mkdir()
    for source in (path, folder):
        with pytest.raises(ImportWeightsError, match=rf"{second} is beside it.*--target-tensor-parallel-size 1"):
            import_model(source)


@pytest.mark.parametrize("names", [["__0_0.distcp"], ["common.pt", "metadata.json"]], ids=["torch_dist", "zarr"])
def test_a_distributed_checkpoint_is_refused_with_the_way_to_join_it(folder, names):
    (folder / "latest_checkpointed_iteration.txt").write_text("1500")
    iteration = folder / "iter_0001500"
    iteration.mkdir()
    for name in names:
        torch.save({"x": torch.ones(1)}, iteration / name)
    for source in (folder, iteration, iteration / names[0]):
        assert is_importable(source)
        with pytest.raises(ImportWeightsError, match=r"is a distributed checkpoint of Megatron-Core: .*convert\.py"):
            import_model(source, ImportOptions())
