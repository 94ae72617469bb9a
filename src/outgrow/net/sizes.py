"""Sizes that torch's layers keep beside their weights, set to what the weights say."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def settle_sizes_(module: nn.Module) -> None:
    """Set the sizes that a layer of torch's keeps beside its weights to what the weights say; others stay as they are.

    A layer whose weight is computed anew by a parametrization stays as it is, too.

    Args:
        module: Changed in place.

    Examples:
        >>> layer = nn.Linear(3, 2)
        >>> layer._parameters["weight"] = nn.Parameter(layer.weight.new_zeros(5, 3))
        >>> settle_sizes_(layer)
        >>> layer.out_features
        5
    """
    for kind, settle in _SETTLE.items():
        if isinstance(module, kind) and not hasattr(module, "parametrizations"):
            settle(module)
            return


def _linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _bilinear(module: Any) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _convolution(module: Any) -> None:
    """Groups stay of the size that they have; so their number follows from the weight."""
    if not isinstance(module.weight, Tensor):
        return
    first, second = module.weight.shape[:2]
    whole = module.in_channels if module.transposed else module.out_channels
    if module.groups > 1:
        module.groups = first // (whole // module.groups)
    outer, inner = first, second * module.groups
    module.in_channels, module.out_channels = (outer, inner) if module.transposed else (inner, outer)


def _norm(module: Any) -> None:
    known = module.weight if module.weight is not None else module.running_mean  # without gains, the statistics tell
    if known is not None:
        module.num_features = len(known)


def _group_norm(module: Any) -> None:
    if module.weight is not None:
        module.num_groups = len(module.weight) * module.num_groups // module.num_channels
        module.num_channels = len(module.weight)


def _layer_norm(module: Any) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _prelu(module: Any) -> None:
    module.num_parameters = len(module.weight)


def _embedding(module: Any) -> None:
    module.embedding_dim = module.weight.shape[1]


def _recurrent(module: Any) -> None:
    module.input_size = module.weight_ih_l0.shape[1]
    module.hidden_size = len(module.weight_hh_l0) // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]


def _cell(module: Any) -> None:
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


def _attention(module: Any) -> None:
    if module.in_proj_weight is not None:
        module.embed_dim = module.kdim = module.vdim = module.in_proj_weight.shape[1]
        inner = len(module.in_proj_weight) // 3
    else:
        module.embed_dim, module.kdim = module.q_proj_weight.shape[1], module.k_proj_weight.shape[1]
        module.vdim, inner = module.v_proj_weight.shape[1], len(module.q_proj_weight)
    module.num_heads = inner // module.head_dim


_SETTLE: dict[type[nn.Module], Callable[[Any], None]] = {
    nn.Linear: _linear,
    nn.Bilinear: _bilinear,
    nn.modules.conv._ConvNd: _convolution,
    nn.modules.batchnorm._NormBase: _norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
    nn.MultiheadAttention: _attention,
}
