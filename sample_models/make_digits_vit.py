"""Trains the digits sample and exports it, with its held-out and its calibration images.

Writes `digits_vit.onnx`, `digits_test.npz`, `digits_calibration.npz` and `digits_vit.json`.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import onnxruntime as ort
import torch
from digits_model import DigitsViT
from onnx_export import export, name_weights
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional
from training import begin, exported_logits, output_option, step, write_facts

SEED = 0
TEST_IMAGES, CALIBRATION_IMAGES = 450, 256
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 120, 64, 2e-3, 0.05
LEAST_ACCURACY = 0.97

Split = tuple[torch.Tensor, torch.Tensor]


def load_splits() -> tuple[Split, Split, Split]:
    """Gives (images, labels) to train on, to calibrate with (a part of those) and to test."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=SEED
    )
    _, calibration, _, calibration_labels = train_test_split(
        train, train_labels, test_size=CALIBRATION_IMAGES, stratify=train_labels, random_state=SEED
    )
    return (
        (torch.from_numpy(train), torch.from_numpy(train_labels)),
        (torch.from_numpy(calibration), torch.from_numpy(calibration_labels)),
        (torch.from_numpy(test), torch.from_numpy(test_labels)),
    )


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turns, scales and shifts each image a little."""

    def uniform(width: float) -> torch.Tensor:
        return (torch.rand(len(images), generator=generator) - 0.5) * width

    angle, scale, right, down = uniform(0.3), 1 + uniform(0.15), uniform(0.3), uniform(0.3)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack((cos, -sin, right, sin, cos, down), dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(split: Split) -> DigitsViT:
    """Trains with AdamW on jittered images; the test images play no part in it."""
    images, labels = split
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = DigitsViT().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        # The last, smaller batch is dropped.
        for batch in torch.split(order, BATCH)[: len(images) // BATCH]:
            logits = model(jitter(images[batch], generator))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.1)
            step(model, loss, optimizer, schedule)
        if epoch % 20 == 19:
            click.echo(f"epoch {epoch + 1:3}: loss {loss.item():.3f}")
    return model.eval()


def evaluate(path: Path, model: DigitsViT, test: Split) -> float:
    """Gives the accuracy of the exported file; stops where it is not what PyTorch computes."""
    images, labels = test
    logits = exported_logits(path, model, "images", images)
    return float((logits.argmax(axis=1) == labels.numpy()).mean())


@click.command()
@output_option
def main(output: Path) -> None:
    """Trains, exports and measures the digits sample (about two minutes on one core)."""
    begin(output)
    training, calibration, test = load_splits()
    model, path = train(training), output / "digits_vit.onnx"
    # Traced with another batch size than any the model or the tests use.
    export(model, {"images": test[0][:3]}, "logits", {0: "batch"}, "torchscript", path)
    name_weights(path)
    accuracy = evaluate(path, model, test)
    for name, (images, labels) in {"test": test, "calibration": calibration}.items():
        file = output / f"digits_{name}.npz"
        np.savez_compressed(file, images=images.numpy(), labels=labels.numpy())
    facts = {
        "accuracy": accuracy,
        "test_images": TEST_IMAGES,
        "training_images": len(training[0]),
        "seed": SEED,
        "epochs": EPOCHS,
        "torch": torch.__version__,
        "onnxruntime": ort.__version__,
    }
    write_facts(output / "digits_vit.json", facts)
    click.echo(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, test accuracy {accuracy:.2%}")
    if accuracy < LEAST_ACCURACY:
        raise click.ClickException(f"accuracy is below {LEAST_ACCURACY:.0%}.")


if __name__ == "__main__":
    main()
