"""Networks of Hugging Face transformers at random weights, with the places where a block can go in."""

import torch
import transformers

from net_cases import noise
from place_cases import Case


def rational(channels: int, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, f"Linear({channels}, {channels}) at the identity and Rational")


def relu(channels: int, size: int, *names: str) -> dict[str, str]:
    what = f"x + BatchNorm(Conv2d({channels}, {channels}, {size}x{size})) at zero gain and ReLU"
    return {f"{name}.activation": what for name in names}


def hugging_face() -> dict[str, Case]:
    """Small networks at random weights."""
    T = transformers
    words = {"input_ids": torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(1))}
    image = {"pixel_values": noise(2, 3, 32, 32)}
    size = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**size, "vocab_size": 30, "num_key_value_heads": 2, "max_position_embeddings": 32}
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    gpt2 = {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    gpt2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    t5 = {"vocab_size": 30, "d_model": 16, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 3, "dropout_rate": 0.0}
    swin = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4}
    mlp = "attention.o_proj.weight, attention.o_proj.bias, mlp.fc2.weight, mlp.fc2.bias"
    glu = "self_attn.o_proj.weight, mlp.down_proj.weight"
    rows = dict.fromkeys((f"model.layers.{i}" for i in (0, 1)), glu)
    gates = rational(20, *(f"model.layers.{i}.mlp.act_fn" for i in (0, 1)))
    return {
        "gpt2": Case(
            lambda: T.GPT2LMHeadModel(T.GPT2Config(**gpt2)),
            words,
            dict.fromkeys(
                ("transformer.h.0", "transformer.h.1"),
                "attn.c_proj.weight, attn.c_proj.bias, mlp.c_proj.weight, mlp.c_proj.bias",
            ),
            rational(64, "transformer.h.0.mlp.act", "transformer.h.1.mlp.act"),
        ),
        "llama": Case(lambda: T.LlamaForCausalLM(T.LlamaConfig(**text)), words, rows, gates),
        "qwen2": Case(lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**text)), words, rows, gates, still=("k_proj.bias",)),
        "bert": Case(
            lambda: T.BertModel(T.BertConfig(**size, **calm, vocab_size=30), add_pooling_layer=False),
            words,
            chain=rational(20, *(f"encoder.layer.{i}.intermediate.intermediate_act_fn" for i in (0, 1))),
            none={"encoder.layer": r"its shortcut leads through output.LayerNorm \(LayerNorm\)"},
        ),
        "vit": Case(
            lambda: T.ViTForImageClassification(T.ViTConfig(**size, **calm, image_size=32, patch_size=8)),
            image,
            {"vit.layers.0": mlp, "vit.layers.1": mlp},
            rational(20, "vit.layers.0.mlp.activation_fn", "vit.layers.1.mlp.activation_fn"),
            still=("k_proj.bias",),
        ),
        "t5": Case(
            lambda: T.T5EncoderModel(T.T5Config(**t5)),
            words,
            {"encoder.block.1": "layer.0.SelfAttention.o.weight, layer.1.DenseReluDense.wo.weight"},
            {
                f"encoder.block.{i}.layer.1.DenseReluDense.act": "Linear(20, 20) at the identity and ReLU"
                for i in (0, 1)
            },
        ),
        "hf convnext": Case(
            lambda: T.ConvNextModel(T.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 2], num_stages=2)),
            image,
            dict.fromkeys(
                (f"encoder.stages.{i}" for i in ("0.layers.0", "1.layers.0", "1.layers.1")), "layer_scale_parameter"
            ),
            rational(32, "encoder.stages.0.layers.0.act")
            | rational(48, "encoder.stages.1.layers.0.act", "encoder.stages.1.layers.1.act"),
        ),
        "hf resnet": Case(
            lambda: T.ResNetModel(T.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 1])),
            image,
            {"encoder.stages.0.layers.1": "layer.2.normalization.weight, layer.2.normalization.bias"},
            relu(8, 7, "embedder.embedder")
            | relu(4, 1, "encoder.stages.0.layers.0.layer.0", "encoder.stages.0.layers.1.layer.0")
            | relu(4, 3, "encoder.stages.0.layers.0.layer.1", "encoder.stages.0.layers.1.layer.1")
            | relu(16, 1, "encoder.stages.0.layers.0", "encoder.stages.0.layers.1")
            | relu(8, 1, "encoder.stages.1.layers.0.layer.0")
            | relu(8, 3, "encoder.stages.1.layers.0.layer.1"),
        ),
        "swin": Case(
            lambda: T.SwinForImageClassification(T.SwinConfig(**swin)),
            image,
            dict.fromkeys((f"swin.encoder.layers.{i}" for i in ("0.blocks.0", "0.blocks.1", "1.blocks.0")), mlp),
            rational(32, *(f"swin.encoder.layers.0.blocks.{i}.mlp.activation_fn" for i in (0, 1)))
            | rational(64, "swin.encoder.layers.1.blocks.0.mlp.activation_fn"),
            random=True,
            still=("k_proj.bias",),
        ),
    }


HF = hugging_face()
