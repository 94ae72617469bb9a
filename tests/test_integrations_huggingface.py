"""A model of any Trainer of Hugging Face grows while it trains, and is what its configuration says."""

import importlib
import logging
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import transformers as T
from torch import nn

import outgrow.huggingface
from outgrow.errors import InputError
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Decision, Plan
from outgrow.huggingface import Growing, load
from outgrow.integrations.examples import own_loss
from outgrow.integrations.huggingface import demand_one_device
from outgrow.train.account import Course
from zoo_hf import LLAMA, TRANSFORMER

CALM = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
GPT2 = {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16, "bos_token_id": 0}
NETWORKS = {
    "bert": lambda: T.BertForSequenceClassification(
        T.BertConfig(vocab_size=30, max_position_embeddings=32, **TRANSFORMER, **CALM)
    ),
    "gpt2": lambda: T.GPT2LMHeadModel(T.GPT2Config(**GPT2, eos_token_id=0)),
    "llama": lambda: T.LlamaForCausalLM(T.LlamaConfig(**LLAMA)),
    "vit": lambda: T.ViTForImageClassification(T.ViTConfig(image_size=32, patch_size=8, **TRANSFORMER)),
}
AUTO = {
    "bert": T.AutoModelForSequenceClassification,
    "gpt2": T.AutoModelForCausalLM,
    "llama": T.AutoModelForCausalLM,
    "vit": T.AutoModelForImageClassification,
}
WIDER = {"bert": "intermediate_size", "gpt2": "n_inner", "llama": "num_key_value_heads", "vit": "intermediate_size"}
EAGER = Proportional(price=-1.0, share=0.6, events=2)


def data(name: str, count: int = 128) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    if name == "vit":
        images = torch.randn(count, 3, 32, 32, generator=generator)
        return [{"pixel_values": image, "labels": (image.mean() > 0).long()} for image in images]
    words = torch.randint(0, 30, (count, 7), generator=generator)
    return [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[0] % 2 if name == "bert" else ids}
        for ids in words
    ]


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()


def trainer(folder, model, examples, *callbacks, optimizers=(None, None), **options) -> T.Trainer:
    """A Trainer of a short run, which evaluates on the first examples where that is asked for."""
    usual = {"max_steps": 12, "per_device_train_batch_size": 16, "learning_rate": 1e-2, "report_to": []}
    usual |= {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 6}
    args = T.TrainingArguments(str(folder), **usual | options)
    parts = {"train_dataset": examples, "eval_dataset": examples[:16] if isinstance(examples, list) else None}
    return T.Trainer(model, args, **parts, callbacks=[*callbacks], optimizers=optimizers)


def growing(model, **options) -> Growing:
    return Growing(**{"max_params": 2 * model.num_parameters(), "sample": 32, "policy": EAGER} | options)


def logits(model, example) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**{name: value[None] for name, value in example.items()}).logits


def weights_of(model) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


@dataclass(frozen=True)
class Deepen:
    """Inserts a block at the first place, early in the run, then widens."""

    def propose(self, now):
        if len(now.history) == 0 and now.progress >= 0.2:
            return Plan({}, "due", now.places()[:1], evidence="none")
        if len(now.history) == 1 and now.progress >= 0.6:
            return Plan(dict.fromkeys(now.sizes, 1), "due", evidence="none", init="random")
        return None

    def decide(self, now, candidates, present):
        return Decision({}, "")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_grown_model_is_what_its_configuration_says(name, tmp_path):
    model, examples = model_of(name), data(name)
    before = getattr(model.config, WIDER[name]) or 64
    grow = growing(model)
    run = trainer(tmp_path, model, examples, grow)
    run.train()
    assert getattr(model.config, WIDER[name]) > before
    assert not hasattr(model.config, "outgrow")
    run.save_model(tmp_path / "saved")
    again = AUTO[name].from_pretrained(tmp_path / "saved")
    assert torch.allclose(logits(again, examples[0]), logits(model, examples[0]), atol=1e-5)
    told = [entry for entry in run.state.log_history if "outgrow/parameters" in entry]
    assert told[-1]["outgrow/parameters"] == model.num_parameters() <= grow.grower.budget.max_params


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit"])
def test_a_deeper_model_is_what_its_configuration_says(name, tmp_path):
    model, examples = model_of(name), data(name)
    grow = growing(model, max_params=None, policy=Deepen())
    trainer(tmp_path, model, examples, grow).train()
    assert [event.growths[0].kind for event in grow.grower.history] == ["insert", "widen"]
    assert model.config.num_hidden_layers == 3
    model.save_pretrained(tmp_path / "saved")
    again = AUTO[name].from_pretrained(tmp_path / "saved")
    assert torch.allclose(logits(again, examples[0]), logits(model, examples[0]), atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_layers_that_grow_by_themselves_are_told_and_loaded(name, tmp_path, caplog):
    model, examples = model_of(name), data(name)
    policy = Proportional(price=-1.0, share=0.6, events=2, strength=1.0)
    trainer(tmp_path, model, examples, growing(model, uniform=False, policy=policy)).train()
    assert "from_pretrained can't build what is saved from now on; load it with outgrow.huggingface.load" in caplog.text
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises((RuntimeError, ValueError)):
        AUTO[name].from_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert torch.allclose(logits(again, examples[0]), logits(model, examples[0]), atol=1e-5)


class Stop(T.TrainerCallback):
    """Stops a run after its first checkpoint."""

    def on_save(self, args, state, control, **kwargs):
        control.should_training_stop = True


@pytest.mark.parametrize(("name", "policy", "uniform"), [
    ("bert", EAGER, True), ("gpt2", Deepen(), True), ("bert", EAGER, False), ("gpt2", EAGER, False),
])  # fmt: skip
def test_a_run_that_is_stopped_ends_as_one_that_is_not(name, policy, uniform, tmp_path):
    examples = data(name)
    options = {"save_strategy": "steps", "save_steps": 6, "max_steps": 12, "lr_scheduler_type": "cosine"}

    def run(model, folder, *callbacks, resume=None):
        grow = growing(model, policy=policy, uniform=uniform, max_params=None)
        trainer(folder, model, examples, grow, *callbacks, **options).train(resume_from_checkpoint=resume)
        return grow.grower, weights_of(model)

    whole, expected = run(model_of(name), tmp_path / "whole")
    half, _ = run(model_of(name), tmp_path / "half", Stop())
    assert 0 < len(half.history) < len(whole.history)
    checkpoint = tmp_path / "half" / "checkpoint-6"
    resumed, found = run(load(checkpoint), tmp_path / "half", resume=str(checkpoint))
    assert all(map(torch.equal, expected, found))
    assert [event.growths for event in whole.history] == [event.growths for event in resumed.history]


def test_a_run_without_growth_is_the_run_without_the_callback(tmp_path):
    class Look(Deepen):
        def propose(self, now):
            return Plan(dict.fromkeys(now.sizes, 1), "to look") if len(now.history) < 2 else None

    found = []
    for callbacks in ([], [growing(model_of("bert"), policy=Look())]):
        model = model_of("bert")
        trainer(tmp_path, model, data("bert"), *callbacks, gradient_accumulation_steps=2, max_steps=10).train()
        found.append(weights_of(model))
    assert all(map(torch.equal, *found))


def half_frozen() -> nn.Module:
    model = model_of("bert")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layer.1" in name or "classifier" in name)
    return model


def test_what_is_frozen_stays_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, "outgrow")
    model = half_frozen()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    grow = growing(model, uniform=False)
    trainer(tmp_path, model, data("bert"), grow).train()
    grown = {growth.where for event in grow.grower.history for growth in event.growths}
    assert "bert.encoder.layer.1.intermediate.dense" in grown
    assert not any("layer.0" in where for where in grown)
    now = dict(model.named_parameters())
    changed = [name for name in frozen if not torch.equal(frozen[name], now[name])]
    assert all("pooler" in name for name in changed)  # which is frozen too, and grew as what reads it is not
    assert not any(now[name].requires_grad for name in frozen)
    assert "bert.encoder.layer.0.intermediate.dense is fixed: " in caplog.text
    with pytest.raises(InputError, match=r"no field of the configuration .* does not require gradients.*uniform=False"):
        trainer(tmp_path, half_frozen(), data("bert"), growing(model)).train()


def test_an_optimizer_from_before_a_change_is_told(tmp_path):
    model = model_of("bert")
    optimizer = torch.optim.AdamW(model.parameters())
    model.classifier = nn.Linear(16, 2)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    run = trainer(tmp_path, model, data("bert"), growing(model), optimizers=(optimizer, schedule))
    with pytest.raises(InputError, match=r"lacks classifier.weight, classifier.bias .* Change the model first"):
        run.train()


def test_a_loss_of_the_users_own_is_followed(tmp_path):
    model = model_of("bert")

    def loss(output, labels):
        return nn.functional.cross_entropy(output.logits, labels)

    grow = growing(model, loss=loss)
    trainer(tmp_path, model, data("bert"), grow).train()
    assert any(event.growths for event in grow.grower.history)


def test_the_loss_of_an_evaluation_is_what_the_policy_sees(tmp_path):
    model = model_of("bert")
    grow = growing(model, max_params=None)
    run = trainer(tmp_path, model, data("bert"), grow, eval_strategy="steps", eval_steps=1)
    run.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry}
    assert grow.grower.history[0].held_out in losses.values()


def test_half_precision_around_the_model_is_left_out_of_checks(tmp_path):
    model, examples = model_of("bert"), data("bert")
    grow = growing(model)
    trainer(tmp_path, model, examples, grow, bf16=True).train()
    assert any(event.growths for event in grow.grower.history)
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert torch.allclose(logits(again, examples[0]), logits(model, examples[0]), atol=2e-2)


def test_a_module_that_has_no_configuration_grows_and_is_resumed(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(7, 6), nn.Linear(6, 2)

        def forward(self, x, labels=None):
            y = self.last(self.first(x).relu())
            return {"logits": y} if labels is None else {"loss": nn.functional.cross_entropy(y, labels), "logits": y}

    x = torch.randn(128, 7, generator=torch.Generator().manual_seed(0))
    examples = [{"x": row, "labels": (row.sum() > 0).long()} for row in x]

    def run(model, folder, *callbacks, resume=None):
        grow = Growing(policy=EAGER, sample=32)
        options = {"save_strategy": "steps", "save_steps": 6}
        trainer(folder, model, examples, grow, *callbacks, **options).train(resume_from_checkpoint=resume)
        return weights_of(model)

    expected = run(Net(), tmp_path / "whole")
    run(Net(), tmp_path / "half", Stop())
    checkpoint = str(tmp_path / "half" / "checkpoint-6")
    found = run(load(checkpoint, Net()), tmp_path / "half", resume=checkpoint)
    assert all(map(torch.equal, expected, found))
    assert len(expected[0]) > 6


@pytest.mark.parametrize(("given", "message"), [
    ({"world_size": 2}, r"received 2 with 1: .* drift apart\. Set CUDA_VISIBLE_DEVICES"),
    ({"n_gpu": 2}, "received 1 with 2"),
    ({"fsdp": "full_shard"}, "received DeepSpeed or FSDP"),
    ({"load_best_model_at_end": True}, r"load_best_model_at_end: expected False, received True: .* other sizes"),
])  # fmt: skip
def test_a_trainer_in_which_nothing_can_grow_is_refused(given, message):
    usual = {"world_size": 1, "n_gpu": 1, "deepspeed": None, "fsdp": [], "load_best_model_at_end": False}
    with pytest.raises(InputError, match=message):
        demand_one_device(SimpleNamespace(**usual | given))


def test_a_callback_that_comes_too_late_is_told(tmp_path):
    model = model_of("gpt2")
    run = trainer(tmp_path, model, data("gpt2"))
    run.add_callback(growing(model))
    with pytest.raises(InputError, match=r"received it when GPT2\w+ had an optimizer"):
        run.train()


def test_a_loaded_model_has_the_type_that_was_saved(tmp_path):
    model = model_of("llama")
    policy = Proportional(price=-1.0, share=0.6, events=2, strength=1.0)
    trainer(tmp_path, model, data("llama"), growing(model, uniform=False, policy=policy)).train()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    assert [b.dtype for b in again.buffers()] == [b.dtype for b in model_of("llama").buffers()]


def test_a_resumed_run_has_as_many_events_as_it_began_with(tmp_path, monkeypatch):
    """How many fit depends on the size of the network, which is another one by then."""
    options = {"save_strategy": "steps", "save_steps": 6, "max_steps": 12}
    events = []
    for fitting, folder in ((3, None), (2, "checkpoint-6")):
        monkeypatch.setattr(Course, "fitting_events", lambda *args, fitting=fitting: fitting)
        model = load(tmp_path / folder) if folder else model_of("bert")
        grow = Growing(max_params=20_000)
        path = str(tmp_path / folder) if folder else None
        trainer(tmp_path, model, data("bert"), grow, *[Stop()] * (not folder), **options).train(path)
        events.append(grow.grower.policy.policy.events)
    assert events == [3, 3]


def test_data_that_has_no_order_needs_a_loader(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(data("bert"))

    model = model_of("bert")
    with pytest.raises(InputError, match="received Stream: pass loader="):
        trainer(tmp_path, model, Stream(), growing(model)).train()
    batches = T.default_data_collator(data("bert"))
    grow = growing(model_of("bert"), loader=[batches])
    trainer(tmp_path, model_of("bert"), Stream(), grow).train()
    assert any(event.growths for event in grow.grower.history)


@pytest.mark.parametrize("package", ["transformers", "accelerate"])
def test_a_missing_package_is_told_with_what_to_install(package, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(InputError, match=rf'the package {package}, .*: pip install "outgrow\[huggingface\]"$'):
        importlib.reload(outgrow.huggingface)


@pytest.mark.parametrize(("given", "message"), [
    ({"every_n_steps": 0}, "every_n_steps: expected at least 1, received 0"),
    ({"loss": nn.functional.mse_loss, "step": own_loss}, "expected a loss or a step, received both"),
])  # fmt: skip
def test_bad_arguments_are_told(given, message):
    with pytest.raises(InputError, match=message):
        Growing(**given)


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(InputError, match=r"expected a checkpoint of a Trainer whose model grew, found none"):
        load(tmp_path, nn.Linear(2, 2))


def test_a_loader_without_a_length_is_read(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(data("bert"))

    model = model_of("bert")
    callback = growing(model, loader=torch.utils.data.DataLoader(Stream(), 16))
    trainer(tmp_path, model, data("bert"), callback).train()
    assert callback.grower.history
