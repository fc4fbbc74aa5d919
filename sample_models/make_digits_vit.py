"""Trains the digits sample and exports it, with its held-out and its calibration images.

Writes `digits_vit.onnx`, `digits_test.npz`, `digits_calibration.npz` and `digits_vit.json`.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
import torch
from digits_model import DigitsViT
from onnx_export import export, name_weights
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

SEED = 0
TEST_IMAGES, CALIBRATION_IMAGES = 450, 256
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 120, 64, 2e-3, 0.05
LEAST_ACCURACY, TOLERANCE = 0.97, 1e-5

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
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch % 20 == 19:
            click.echo(f"epoch {epoch + 1:3}: loss {loss.item():.3f}")
    return model.eval()


def evaluate(path: Path, model: DigitsViT, test: Split) -> float:
    """Gives the accuracy of the exported file; stops where it is not what PyTorch computes."""
    onnx.checker.check_model(path, full_check=True)
    images, labels = test
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images).numpy()
    error = float(np.abs(logits - expected).max() / np.abs(expected).max())
    if not error <= TOLERANCE:
        raise click.ClickException(f"{path.name} differs from PyTorch by {error:.1e}.")
    return float((logits.argmax(axis=1) == labels.numpy()).mean())


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent,
    help="Folder to write to; by default the one of this script.",
)
def main(output: Path) -> None:
    """Trains, exports and measures the digits sample (about two minutes on one core)."""
    warnings.filterwarnings("ignore")
    # The same sums in the same order everywhere, and tensors this small gain nothing from more.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    output.mkdir(parents=True, exist_ok=True)
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
    (output / "digits_vit.json").write_text(json.dumps(facts, indent=2) + "\n")
    click.echo(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, test accuracy {accuracy:.2%}")
    if accuracy < LEAST_ACCURACY:
        raise click.ClickException(f"accuracy is below {LEAST_ACCURACY:.0%}.")


if __name__ == "__main__":
    main()
