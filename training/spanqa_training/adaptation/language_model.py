"""The masked language model: the encoder with the head that tells what stood where [MASK] stands."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from spanqa_training.errors import CheckpointError
from spanqa_training.model import EncoderConfig, SpanModel


class MaskedLanguageModel(nn.Module):
    """An encoder with BERT's head of the masked language model (Devlin et al. 2018, and their `run_pretraining.py`).

    The head is a dense layer, the encoder's activation and a layer norm, as wide as the word embeddings; its scores are
    products with those, which it shares with the encoder, and a bias a token. Every family's is of this form.

    Args:
        encoder: The encoder; its own head, for questions, is kept as it is and needs no gradient.
        seed: Of the fresh head.
    """

    def __init__(self, encoder: SpanModel, seed: int = 0) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.transform = nn.Linear(config.hidden_size, config.table_width)
        self.norm = nn.LayerNorm(config.table_width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.transform.weight, std=config.initializer_range, generator=generator)
        nn.init.zeros_(self.transform.bias)
        encoder.head.requires_grad_(False)

    @property
    def config(self) -> EncoderConfig:
        """The encoder's architecture."""
        return self.encoder.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, places: Tensor) -> Tensor:
        """Score every token of the vocabulary at some places of a batch.

        Args:
            input_ids: `(batch, length)`, as the encoder takes them; the next two likewise.
            attention_mask: Same.
            token_type_ids: Same.
            places: `int64 (n_places,)`: places in the batch as one row, row * length + position.

        Returns:
            `float32 (n_places, vocab_size)`.

        Raises:
            ModelError: The sequences are longer than the model's positions.
        """
        states = self.encoder.states(input_ids, attention_mask, token_type_ids)
        # Scores of the other places, six of seven, would be thrown away.
        states = states.reshape(-1, states.shape[-1])[places]
        states = self.norm(functional.gelu(self.transform(states), approximate=self.approximate))
        return functional.linear(states, self.encoder.embeddings.word.weight, self.bias).float()

    def lm_head(self) -> dict[str, Tensor]:
        """The head's weights, under the names that checkpoints keep them by."""
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("encoder.")}
        return {name: tensor.detach() for name, tensor in own.items()}

    def take_lm_head(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a head.

        Args:
            weights: As `lm_head` gives them.

        Raises:
            CheckpointError: They are of another architecture or another vocabulary.
        """
        expected = self.lm_head()
        if weights.keys() != expected.keys():
            raise CheckpointError(
                f"the masked-LM head holds {', '.join(sorted(weights))} and should hold {', '.join(sorted(expected))}: "
                "import the base model again"
            )
        for name, tensor in expected.items():
            if weights[name].shape != tensor.shape:
                raise CheckpointError(
                    f"the masked-LM head's {name} has shape {tuple(weights[name].shape)} and the encoder asks for "
                    f"{tuple(tensor.shape)}: they are not of one model or one vocabulary: import the base model again"
                )
        self.load_state_dict(dict(weights), strict=False)
