"""A vision transformer that grows in the Trainer of Hugging Face, and one that does not.

python examples/huggingface_trainer.py
"""

import tempfile
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import (
    AutoModelForImageClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from outgrow.huggingface import Growing


def digits() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read handwritten digits, as dicts of an image and its label."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    rows = [{"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, labels, strict=True)]
    train, test = train_test_split(rows, random_state=0)
    return train, test


def accuracy(predicted: EvalPrediction) -> dict[str, float]:
    """Return the share of right answers."""
    return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}


def trained(folder: str, callbacks: list[Growing]) -> ViTForImageClassification:
    """Train a small vision transformer, and tell how good it became."""
    train, test = digits()
    set_seed(0)
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=8, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    args = TrainingArguments(
        folder, num_train_epochs=16, per_device_train_batch_size=64, learning_rate=2e-3, warmup_steps=40,
        report_to=[], use_cpu=True, save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model, args, train_dataset=train, eval_dataset=test, compute_metrics=accuracy, callbacks=callbacks
    )
    trainer.train()
    score = trainer.predict(test).metrics["test_accuracy"]
    print(f"{model.num_parameters():,} parameters, {model.config.intermediate_size} wide: {score:.3f} on the test part")
    trainer.save_model()
    return model


def main() -> None:
    """Train without and with growth; what grew is an ordinary model of transformers."""
    with tempfile.TemporaryDirectory() as folder:
        trained(folder, [])
        growing = Growing(max_params=20_000, sample=512)  # a run this short would have a single small check else
        trained(folder, [growing])
        for event in growing.grower.history if growing.grower else []:
            print(event)
        print(AutoModelForImageClassification.from_pretrained(folder).config.intermediate_size, "wide, loaded again")


if __name__ == "__main__":
    main()
