"""Training of one network on warped digits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcn_deploy import models
from dcn_deploy.nn import parameter_groups
from digits.data import Scans, WarpedImages, warp

#: The deformable network and its plain twin.
NETWORKS = ("digits_dcn", "digits_plain")
BATCH = 32
#: The better of 0.004 and 0.01 for the plain twin on a quarter of the training scans held back; the deformable network
#: hardly cares.
LEARNING_RATE = 1e-2
OFFSET_LR_MULT = 0.1
WEIGHT_DECAY = 1e-3
#: Added to the seed of the weights, so that images and weights are not drawn from one stream.
WARP_SEED_BASE = 1_000_000


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training scans gave.

    Attributes:
        loss: mean cross-entropy over the pass, in nats.
        train_accuracy: share of right answers over the pass, while the weights were changing.
        test_accuracy: share of right answers on the test images after the pass.
    """

    loss: float
    train_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Training:
    """A trained network and how it got there.

    Attributes:
        name: of the network in the zoo.
        seed: of its weights and of its training images.
        network: the network after the last epoch, in evaluation mode.
        epochs: one entry for each pass.
        logits: ``(N, 10)``, the trained network's answers on the test images.
        test_accuracy: share of right answers among them.
        parameters: number of trainable values.
        seconds: wall time, evaluation included.
    """

    name: str
    seed: int
    network: nn.Module
    epochs: tuple[Epoch, ...]
    logits: Tensor
    test_accuracy: float
    parameters: int
    seconds: float


def train(
    name: str,
    scans: Scans,
    test: WarpedImages,
    *,
    seed: int,
    epochs: int,
    after_batch: Callable[[], None] = lambda: None,
) -> Training:
    """Train the zoo's network ``name`` on fresh warps of ``scans`` in every epoch.

    Networks trained with one seed see the same images in the same order. The last epoch's weights are kept:
    the test images choose nothing.

    Args:
        name: of the network in the zoo.
        scans: the training scans.
        test: the test images, for the curve and the final figure only.
        seed: of the initial weights and of the training images.
        epochs: number of passes over the scans.
        after_batch: called after each step, for a progress bar.
    """
    started = time.perf_counter()
    network = models.create(name, seed=seed, offset_init="zero")
    generator = torch.Generator().manual_seed(WARP_SEED_BASE + seed)
    groups = parameter_groups(network, LEARNING_RATE, offset_lr_mult=OFFSET_LR_MULT, weight_decay=WEIGHT_DECAY)
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in groups],
        total_steps=epochs * batches_per_epoch(len(scans)),
        pct_start=0.2,
    )
    history = []
    for _ in range(epochs):
        images = warp(scans, generator)
        order = torch.randperm(len(scans), generator=generator)
        network.train()
        loss_sum, right = 0.0, 0
        for batch in order.split(BATCH):
            labels = images.labels[batch]
            logits = network(images.images[batch])
            loss = functional.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(batch)
            right += int((logits.argmax(1) == labels).sum())
            after_batch()
        network.eval()
        history.append(
            Epoch(
                loss=loss_sum / len(scans),
                train_accuracy=right / len(scans),
                test_accuracy=accuracy(classify(network, test.images), test.labels),
            )
        )
    logits = classify(network, test.images)
    return Training(
        name=name,
        seed=seed,
        network=network,
        epochs=tuple(history),
        logits=logits,
        test_accuracy=accuracy(logits, test.labels),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        seconds=time.perf_counter() - started,
    )


def batches_per_epoch(scans: int) -> int:
    """Return how many steps one pass over ``scans`` takes."""
    return -(-scans // BATCH)


@torch.inference_mode()
def classify(network: nn.Module, images: Tensor, batch: int = 256) -> Tensor:
    """Return the logits ``(N, 10)`` of ``images`` ``(N, 1, 32, 32)``."""
    return torch.cat([network(part) for part in images.split(batch)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows of ``logits`` ``(N, 10)`` whose largest entry is at the label ``(N,)``."""
    return int((logits.argmax(1) == labels).sum()) / len(labels)
