"""What is no checkpoint of Megatron-LM that we can take over, or a hostile one, is refused in one sentence."""

from __future__ import annotations

import pytest
import torch

from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.recognition import import_model

HIDDEN_SIZE = 128
FILE = "model_optim_rng.pt"


def test_heads_of_an_unusual_width_must_be_told(oracle, folder, megatron):
    state = megatron.flat(megatron.megatron_state(oracle))
    narrow = {name: tensor[..., :100] if tensor.shape[-1] == HIDDEN_SIZE else tensor for name, tensor in state.items()}
    with pytest.raises(ImportWeightsError, match="lacks 'num_attention_heads': give a whole one, or what it lacks"):
        import_model(megatron.write(folder / FILE, narrow))


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
def test_arguments_that_do_not_fit_are_one_sentence(oracle, folder, changes, message, megatron):
    path = megatron.write(folder / FILE, megatron.megatron_state(oracle), args=megatron.arguments(**changes))
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


def test_half_a_masked_lm_head_is_refused(oracle, folder, megatron):
    state = megatron.flat(megatron.megatron_state(oracle))
    del state["lm_head.dense.bias"]
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: lacks dense\.bias"):
        import_model(megatron.write(folder / FILE, state))


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
def test_weights_that_are_no_plain_floats_are_refused_before_any_is_copied(oracle, folder, kind, megatron):
    weight, message = HOSTILE_WEIGHTS[kind]
    state = {**megatron.flat(megatron.megatron_state(oracle)), FIRST_OUTPUT: weight}
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: .*{message}") as caught:
        import_model(megatron.write(folder / FILE, state))
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
def test_hostile_arguments_are_one_sentence(oracle, folder, changes, message, megatron):
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: .*{message}") as caught:
        import_model(megatron.write(folder / FILE, megatron.megatron_state(oracle), args=megatron.arguments(**changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [10**400, float("nan"), float("inf"), -1, "x", torch.ones(2)])
def test_a_version_that_is_none_is_one_sentence(oracle, folder, version, megatron):
    path = megatron.write(folder / FILE, megatron.megatron_state(oracle), checkpoint_version=version)
    with pytest.raises(ImportWeightsError, match=rf"{FILE}: checkpoint_version .*must be a number") as caught:
        import_model(path)
    assert "\n" not in str(caught.value)
