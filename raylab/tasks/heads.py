"""The modules that tasks put on an encoder; apart from the tasks, for a driver needs those and no torch."""

from __future__ import annotations

from torch import Tensor, nn


class TokenHead(nn.Module):
    """Dropout and one linear layer over every token: [B, T, dim] to [B, T, labels]."""

    def __init__(self, dim: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, num_labels)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of each token's label."""
        return self.linear(self.dropout(hidden))


class PairHead(TokenHead):
    """Dropout and one linear layer over the first token: [B, T, dim] to [B, labels].

    So XLM (Conneau and Lample 2019), the recipe of the paper, classifies pairs. BERT and XLM-R put a tanh layer before
    it, which BERT pretrains with its next sentence prediction; nothing here would.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of each pair's label."""
        return super().forward(hidden[:, 0])
