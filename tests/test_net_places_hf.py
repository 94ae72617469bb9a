"""A deepened network of Hugging Face transformers generates as before and is what its configuration says."""

import copy

import pytest
import torch
import transformers
from torch import nn

from net_cases import noise
from outgrow.net.deepen import deepen_
from outgrow.net.places import places
from outgrow.net.preserve import change
from place_cases_hf import HF
from place_snapshot import run


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_generation_with_a_cache_stays(name):
    model, inputs = HF[name].model().eval(), HF[name].example
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    before = model.generate(**inputs, **options)
    edit = deepen_(model, next(iter(HF[name].residual)), example=inputs)
    assert torch.equal(before, model.generate(**inputs, **options))
    assert torch.equal(before, model.generate(**inputs, **options, use_cache=False))
    assert model.config.num_hidden_layers == 3
    edit.undo()
    assert model.config.num_hidden_layers == 2
    assert torch.equal(before, model.generate(**inputs, **options))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "vit", "t5"])
def test_a_deepened_model_is_what_its_configuration_builds(name):
    case = HF[name]
    model = case.model()
    deepen_(model, next(iter(case.residual)), example=case.example)
    assert model.config is next(m.config for m in model.modules() if m is not model and hasattr(m, "config"))
    fresh = type(model)(copy.deepcopy(model.config)).eval()
    fresh.load_state_dict(model.state_dict())
    assert change(run(model, case.example, False), run(fresh, case.example, False)) <= 1e-6


def test_inverted_residuals_are_places_where_they_have_a_shortcut():
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=32, classifier_dropout_prob=0.0)
    model = transformers.MobileNetV2ForImageClassification(config).eval()
    image = {"pixel_values": noise(2, 3, 32, 32)}
    found = places(model, image)
    shortcuts = [i for i, block in enumerate(model.mobilenet_v2.layer) if block.use_residual]
    assert [p.name for p in found if p.kind == "residual"] == [f"mobilenet_v2.layer.{i}" for i in shortcuts]
    zeros = {p.recipe.zeros for p in found if p.kind == "residual"}
    assert zeros == {("reduce_1x1.normalization.weight", "reduce_1x1.normalization.bias")}
    assert sum(p.kind == "chain" for p in found) == sum(type(m) is nn.ReLU6 for m in model.modules())
    out = {training: run(model, image, training) for training in (False, True)}
    for name in ("mobilenet_v2.layer", "mobilenet_v2.layer.5.conv_3x3.activation"):
        deepen_(model, name, example=image)
    assert all(change(values, run(model, image, training)) <= 1e-5 for training, values in out.items())
