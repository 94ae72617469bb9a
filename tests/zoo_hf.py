"""Networks of Hugging Face transformers at random weights, small enough for a test."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

from zoo_entry import Entry
from zoo_growable import HF_GROWABLE

transformers.logging.set_verbosity_error()

IDS = {"input_ids": torch.randint(0, 30, (4, 7), generator=torch.Generator().manual_seed(1))}
PIXELS = {"pixel_values": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))}

LANGUAGE = {"vocab_size": 30, "num_hidden_layers": 2}
TRANSFORMER = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**LANGUAGE, **TRANSFORMER, "num_key_value_heads": 2, "max_position_embeddings": 32}


class Network(Entry):
    """An entry whose weights stay near those that its own initialisation draws: deep networks saturate otherwise."""

    def model(self) -> nn.Module:
        """Return the network with every weight moved, so that no gain is 1 and no shift is 0."""
        torch.default_generator.manual_seed(0)
        model = self.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.1)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0)
        return model


def network(head: str, config: str, example: Any, single: bool = False, **options: Any) -> Network:
    """An entry for one class of transformers with a configuration."""
    build: Callable[[], nn.Module] = partial(_build, head, config, options)
    return Network(build, example, dropout=True, single=single)


def _build(head: str, config: str, options: dict[str, Any]) -> nn.Module:
    return getattr(transformers, head)(getattr(transformers, config)(**options))


NETWORKS: dict[str, Network] = {
    "gpt2": network(
        "GPT2LMHeadModel", "GPT2Config", IDS, vocab_size=30, n_embd=16, n_layer=2, n_head=4, n_positions=16,
    ),
    "llama": network("LlamaForCausalLM", "LlamaConfig", IDS, single=True, **LLAMA),
    "qwen2": network("Qwen2ForCausalLM", "Qwen2Config", IDS, single=True, **LLAMA),
    "bert": network(
        "BertForSequenceClassification", "BertConfig", IDS, vocab_size=30, max_position_embeddings=32, **TRANSFORMER
    ),
    "vit": network("ViTForImageClassification", "ViTConfig", PIXELS, image_size=32, patch_size=8, **TRANSFORMER),
    "t5 encoder": network(
        "T5EncoderModel", "T5Config", IDS, vocab_size=30, d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=3,
        single=True,
    ),
    "convnext": network(
        "ConvNextForImageClassification", "ConvNextConfig", PIXELS, hidden_sizes=[8, 12], depths=[1, 2], num_stages=2
    ),
    "resnet": network(
        "ResNetForImageClassification", "ResNetConfig", PIXELS, embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2]
    ),
    "mobilenetv2": network(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", PIXELS, depth_multiplier=0.25, image_size=32
    ),
    "swin": network(
        "SwinForImageClassification", "SwinConfig", PIXELS, image_size=32, patch_size=4, embed_dim=8, depths=[2, 2],
        num_heads=[2, 4], window_size=4,
    ),
}  # fmt: skip

HF = {name: replace(entry, growable=HF_GROWABLE.get(name, {})) for name, entry in NETWORKS.items()}
