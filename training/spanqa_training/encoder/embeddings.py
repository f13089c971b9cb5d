"""The states that the first layer reads: the sum of word, position and token type embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spanqa_training.encoder.config import EncoderConfig
from spanqa_training.encoder.dropout import Dropout


class Embeddings(nn.Module):
    """The sum of word, position and token type embeddings; normalised in the post-LN families, widened where narrow."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = config.table_width
        self.offset = config.position_offset
        self.word = nn.Embedding(config.vocab_size, size)
        has_positions = config.position_scheme != "disentangled"
        self.position = nn.Embedding(config.max_positions + config.position_offset, size) if has_positions else None
        self.token_type = nn.Embedding(config.type_vocab_size, size) if config.type_vocab_size else None
        post = config.layer_norm == "post"
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps) if post else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.projection = None if config.embedding_size is None else nn.Linear(size, config.hidden_size)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Embed `(batch, length)` ids into `(batch, length, hidden_size)`."""
        states = self.dropout(self.norm(self._sum(input_ids, token_type_ids)))
        return states if self.projection is None else self.projection(states)

    def read_token_types(self) -> None:
        """Look token types up even where they say nothing, in a table whose rows are alike.

        An exported graph keeps all its inputs so, in every runtime: some drop those that nothing reads.
        """
        if self.token_type is None:
            rows = torch.zeros(2, self.word.embedding_dim)
        elif self.token_type.num_embeddings == 1:
            rows = self.token_type.weight.detach().repeat(2, 1)
        else:
            return
        self.token_type = nn.Embedding.from_pretrained(rows)

    def _sum(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        # Positions are a slice of the table: no Range operator in the exported graph. Windows are padded at their end,
        # so that a token's row does not depend on the padding.
        positions = None
        if self.position is not None:
            positions = self.position.weight[self.offset : self.offset + input_ids.shape[1]]
        words, types = self.word(input_ids), self._types(token_type_ids)
        # In this order the two sides of the last sum have one shape, and ONNX Runtime fuses the sum with the norm.
        if types is not None and positions is not None:
            return words + (types + positions)
        other = positions if types is None else types
        return words if other is None else words + other

    def _types(self, token_type_ids: Tensor) -> Tensor | None:
        if self.token_type is None:
            return None
        if self.token_type.num_embeddings == 1:
            return self.token_type.weight[0]
        return self.token_type(token_type_ids)
