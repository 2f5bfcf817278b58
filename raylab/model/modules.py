"""The parts of a Transformer layer, and how a language finds its own copy of one.

Shapes: B sequences, T tokens, d the width of the residual stream, H heads of width D, b the adapter's bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raylab.config import ModelConfig
from raylab.model.dropout import Dropout, dropout
from raylab.model.matmul import linear

LAYER_NORM_EPSILON = 1e-12  # XLM's and BERT's

# What each variant keeps once per language; everything else is shared.
PER_LANGUAGE: dict[str, frozenset[str]] = {
    "mono": frozenset(),
    "joint": frozenset(),
    "ffn": frozenset({"feed_forward"}),
    "attn": frozenset({"attention"}),
    "norm": frozenset({"norm"}),
    "adapter": frozenset({"adapter"}),
    "shared_adapter": frozenset(),
    "meta_adapter": frozenset({"adapter"}),
    "pcgrad": frozenset(),
    "gradvac": frozenset(),
}
WITH_ADAPTERS = frozenset({"adapter", "shared_adapter", "meta_adapter"})

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class PerLanguage(nn.ModuleDict):
    """One module for each language.

    Keys have a prefix because PyTorch refuses a submodule named like an attribute, and `to` is Tongan.
    """

    def __init__(self, languages: Iterable[str], make: Callable[[], nn.Module]):
        super().__init__({self.key(language): make() for language in languages})

    @staticmethod
    def key(language: str) -> str:
        """The name under which the language's module stands in parameter names."""
        return f"lang_{language}"


def place(part: str, variant: str, languages: Iterable[str], make: Callable[[], nn.Module]) -> nn.Module:
    """A part of the model: one module for each language if the variant keeps that part so, else a single one.

    Args:
        part: `attention`, `feed_forward`, `norm` or `adapter`.
        variant: A key of `PER_LANGUAGE`.
        languages: The model's languages.
        make: Makes one module.
    """
    return PerLanguage(languages, make) if part in PER_LANGUAGE[variant] else make()


def route(module: nn.Module, language: str) -> nn.Module:
    """The module that text in `language` goes through: its own if there is one per language, else the shared one."""
    return module[PerLanguage.key(language)] if isinstance(module, PerLanguage) else module


class Linear(nn.Linear):
    """`torch.nn.Linear` by `raylab.model.matmul.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        return linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Multi-head self-attention; the three input projections are one matrix."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.head_dim = config.head_dim or config.dim // config.num_heads
        self.dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.query_key_value = Linear(config.dim, 3 * self.num_heads * self.head_dim)
        self.output = Linear(self.num_heads * self.head_dim, config.dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend over x [B, T, d]; mask [B, 1, 1, T] is True at the tokens that may be attended to."""
        heads = self.query_key_value(x).unflatten(-1, (3, self.num_heads, self.head_dim))  # [B, T, 3, H, D]
        query, key, value = (part.transpose(1, 2) for part in heads.unbind(2))  # each [B, H, T, D]
        dropout_p = self.dropout if self.training else 0.0
        on_cpu = x.device.type == "cpu" and query.itemsize >= 4  # bytes: PyTorch's own has a softmax in float32
        attend = _attend_on_cpu if on_cpu else F.scaled_dot_product_attention
        mixed = attend(query, key, value, attn_mask=mask, dropout_p=dropout_p)  # [B, H, T, D]
        return self.output(mixed.transpose(1, 2).flatten(2))  # [B, T, d]


def _attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, dropout_p: float) -> Tensor:
    """`F.scaled_dot_product_attention`, in half of its time with dropout and as fast without."""
    batch, heads, length, width = query.shape
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))  # each [B H, T, D]
    bias = query.new_zeros(batch, 1, 1, length)
    if attn_mask is not None:
        bias = bias.masked_fill(~attn_mask, -torch.inf)
    bias = bias.expand(batch, heads, 1, length).flatten(0, 1)  # [B H, 1, T]
    beta = 0 if attn_mask is None else 1  # 0: the bias is not read
    scores = torch.baddbmm(bias, query, key.mT, beta=beta, alpha=width**-0.5)  # [B H, T, T]
    weights = dropout(torch.softmax(scores, dim=-1), dropout_p)  # [B H, T, T]
    return torch.bmm(weights, value).view(batch, heads, length, width)  # [B, H, T, D]


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.inner = Linear(config.dim, config.ffn_dim)
        self.output = Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token of x [B, T, d] by itself."""
        return self.output(F.gelu(self.inner(x)))  # [B, T, d]


class Adapter(nn.Module):
    """Residual bottleneck, o = W_h g(W_z z) + z (paper, Appendix B, Eq. 6 and 7), near the identity at first.

    The paper's g is "some activation function such as relu". A ReLU's kinks spoil the finite difference of a meta-step,
    most of all when training starts; `raylab.train.meta` has numbers. A GELU has none.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.down = Linear(config.dim, config.adapter_dim, bias=False)  # W_z
        self.up = Linear(config.adapter_dim, config.dim, bias=False)  # W_h
        self.activation = _ACTIVATIONS[config.adapter_activation]

    def forward(self, z: Tensor) -> Tensor:
        """Adapt the output z [B, T, d] of a sublayer."""
        return self.up(self.activation(self.down(z))) + z  # [B, T, d]


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """The layer norm over d that follows the embeddings and each residual connection."""
    return nn.LayerNorm(config.dim, eps=LAYER_NORM_EPSILON)


_PARTS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "attention": Attention,
    "feed_forward": FeedForward,
    "norm": layer_norm,
    "adapter": Adapter,
}


class Layer(nn.Module):
    """Attention, then feed-forward, each as x = norm(x + adapter(sublayer(x))); no adapter is the identity."""

    def __init__(self, config: ModelConfig, languages: tuple[str, ...], variant: str):
        super().__init__()

        def make(part: str) -> nn.Module:
            return place(part, variant, languages, lambda: _PARTS[part](config))

        self.attention = make("attention")
        self.attention_adapter = make("adapter") if variant in WITH_ADAPTERS else nn.Identity()
        self.attention_norm = make("norm")
        self.feed_forward = make("feed_forward")
        self.feed_forward_adapter = make("adapter") if variant in WITH_ADAPTERS else nn.Identity()
        self.feed_forward_norm = make("norm")
        self.dropout = Dropout(config.dropout)
        self.transform: Callable[..., Tensor] = transform  # or the same, compiled

    def forward(self, x: Tensor, mask: Tensor | None, language: str) -> Tensor:
        """Pass x [B, T, d] through the layer; mask as in `Attention.forward`."""
        return self.transform(
            x,
            mask,
            self.dropout,
            (route(self.attention, language), route(self.feed_forward, language)),
            (route(self.attention_adapter, language), route(self.feed_forward_adapter, language)),
            (route(self.attention_norm, language), route(self.feed_forward_norm, language)),
        )


def transform(
    x: Tensor,
    mask: Tensor | None,
    dropout: nn.Module,
    sublayers: tuple[nn.Module, nn.Module],
    adapters: tuple[nn.Module, nn.Module],
    norms: tuple[nn.Module, nn.Module],
) -> Tensor:
    """What a layer computes, of x [B, T, d]; each pair is attention's part, then feed-forward's.

    A function of parts that are routed already, so that, compiled, it is the same code for all layers and languages.
    """
    z = dropout(sublayers[0](x, mask))  # [B, T, d]
    x = norms[0](x + adapters[0](z))  # [B, T, d]
    z = dropout(sublayers[1](x))  # [B, T, d]
    return norms[1](x + adapters[1](z))  # [B, T, d]


def initialise(module: nn.Module) -> None:
    """Draw a module's weights from the global random stream; for `nn.Module.apply`, which visits children first.

    Embeddings are N(0, 1/d), as XLM's, and linear maps Glorot-uniform with zero biases, as Vaswani et al.'s (2017):
    models of 128 dimensions learn faster so than from BERT's N(0, 0.02^2). Adapters are N(0, 0.01^2) (Houlsby et al.
    2019): near the identity, yet with a gradient for both of their matrices.
    """
    if isinstance(module, Adapter):
        nn.init.normal_(module.down.weight, std=0.01)
        nn.init.normal_(module.up.weight, std=0.01)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
