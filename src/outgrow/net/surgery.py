"""Put tensors of other shapes into a model, in place: the one spot where a module's insides are touched."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by its first name (tied tensors once)."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def replace_(model: nn.Module, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
    """Put new tensors in place of those named, wherever the old ones are used, and settle the sizes of their modules.

    Args:
        model: Changed in place; its class and its modules stay.
        tensors: New values by name; each becomes a new `nn.Parameter` where the old one is one, and a Parameter is
            taken as it is.

    Returns:
        A function that puts the old tensors back.
    """
    present = tensors_of(model)
    new = {id(present[name]): tensor for name, tensor in tensors.items()}
    undo: list[tuple[nn.Module, str, Tensor]] = []
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for key, old in list(store.items()):
                if old is None or id(old) not in new:
                    continue
                if isinstance(old, nn.Parameter) and id(old) not in made:
                    value = new[id(old)]
                    made[id(old)] = value if isinstance(value, nn.Parameter) else nn.Parameter(value, old.requires_grad)
                undo.append((module, key, old))
                _store(module, key, made.get(id(old), new[id(old)]))
        settle_sizes_(module)

    def put_back() -> None:
        for module, key, old in undo:
            _store(module, key, old)
            settle_sizes_(module)

    return put_back


def _store(module: nn.Module, key: str, tensor: Tensor) -> None:
    store = module._parameters if key in module._parameters else module._buffers
    # replace_ makes a Parameter of what goes where a Parameter was; the type of the two stores can't say so
    store[key] = tensor  # type: ignore[assignment]


def settle_sizes_(module: nn.Module) -> None:
    """Set the sizes that a layer keeps beside its weights to what the weights say."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        weight = weight if weight is not None else module.running_mean  # without gains, the statistics tell
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        if module.groups == module.in_channels == module.out_channels > 1 and weight.shape[1] == 1:
            module.groups = weight.shape[0]  # depthwise: one group a channel
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.shape[0]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
