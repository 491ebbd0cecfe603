"""A linear probe of the frozen backbone: the head's start, and the baseline to beat."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

from mpft_deploy.dataset import Sample, fingerprint, require_both_classes
from mpft_deploy.detector.backbone import Backbone
from mpft_deploy.detector.batches import COLOURED, Masking
from mpft_deploy.detector.evaluate import BATCH, centre_crops, crop_logits
from mpft_deploy.detector.features import features_of
from mpft_deploy.detector.model import NORM_EPS, Detector, choose_device
from mpft_deploy.detector.processes import ALONE, Processes
from mpft_deploy.errors import UsageError
from mpft_deploy.images import U8
from mpft_deploy.spec import Crop, DetectorSpec, KeepRule
from mpft_deploy.weights import F32

F64 = npt.NDArray[np.float64]

MOST = 4096
"""Images that the probe is fitted on; more change it little."""

INVERSE_PENALTY = 0.003
"""Best on unseen generators; ten times less or more costs little (docs/method.md)."""

STEADINESS = 10.0
"""How much more than other directions those are penalised in which views of one image differ."""

GREY = 0.5
"""What a view without colour counts beside one with."""

GROUP_POWER = -0.5
"""Of a group's size, what each of its images counts: a group counts by the root of its images."""


class Probe(NamedTuple):
    """A linear head of standardised features.

    mean, variance: of the features, f64 [F]; weight f64 [F]; bias.
    """

    mean: F64
    variance: F64
    weight: F64
    bias: float

    @classmethod
    def fit(
        cls,
        features: F32,
        labels: npt.ArrayLike,
        weights: npt.ArrayLike,
        inverse_penalty: float = INVERSE_PENALTY,
        steadiness: float = STEADINESS,
    ) -> Probe:
        """Logistic regression whose logit is to be the same for all views of an image.

        Beside the square of the weights w it penalises the variance of the logit between the views
        of an image, wᵀSw, where S is the features' covariance within images: what tangent
        propagation (Simard et al. 1992) is for a linear function and drawn transformations.

        Args:
            features: f32 [looks, n, F], of as many views of each image; of one, S is left out. What
                is beyond COLOURED counts GREY and has no part in S, or what colours tell were lost.
            labels: [n], 1 for generated; both present.
            weights: [n], what each counts.
            inverse_penalty: how little large weights of standardised components are penalised.
            steadiness: what S counts beside the identity; 0 or more.
        """
        coloured = features[:COLOURED]
        looks, count, width = coloured.shape
        mean = coloured.mean((0, 1), np.float64)
        variance = coloured.var((0, 1), np.float64)
        standard = ((features - mean) / np.sqrt(variance + NORM_EPS)).astype(np.float32)
        seen = torch.from_numpy(standard.reshape(-1, width))
        if looks > 1:
            within = standard[:looks] - standard[:looks].mean(0)
            apart = torch.from_numpy(within.reshape(-1, width))
            penalty = steadiness / ((looks - 1) * count) * (apart.T @ apart) + torch.eye(width)
            root = torch.linalg.cholesky(penalty)
            # With u = rootᵀ w, the penalty of w is the square of u.
            seen = torch.linalg.solve_triangular(root.T, seen, upper=True, left=False)
        shares = np.repeat((1.0, GREY), (looks, len(features) - looks))
        fitted = LogisticRegression(C=inverse_penalty, max_iter=3000)
        fitted.fit(seen.numpy(), np.tile(labels, len(features)), np.kron(shares, weights))
        learnt = torch.from_numpy(fitted.coef_.T.astype(np.float32))
        if looks > 1:
            learnt = torch.linalg.solve_triangular(root.T, learnt, upper=True)
        weight = learnt[:, 0]
        return cls(mean, variance, weight.numpy().astype(np.float64), float(fitted.intercept_[0]))

    def logits(self, features: F32) -> F32:
        """Logits f32 [n] of features f32 [n, F]."""
        standard = (features - self.mean) / np.sqrt(self.variance + NORM_EPS)
        return (standard @ self.weight + self.bias).astype(np.float32)

    def put_into(self, model: Detector) -> None:
        """Make it a model's head, with the normalisation before it."""
        mean, variance = model.norm_statistics()
        with torch.no_grad():
            for target, value in (
                (mean, self.mean),
                (variance, self.variance),
                (model.head.weight, self.weight[None]),
                (model.head.bias, np.array([self.bias])),
            ):
                target.copy_(torch.from_numpy(value))


def fit_head(
    model: Detector,
    samples: Sequence[Sample],
    masking: Masking,
    *,
    seed: int,
    bf16: bool,
    inverse_penalty: float = INVERSE_PENALTY,
    after_batch: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> None:
    """Set a model's head and the statistics before it from the centres of training images.

    Starting from the probe spares the backbone the gradients of a random head (Kumar et al.,
    arXiv 2202.10054).

    Args:
        samples: both classes; at most MOST of them are used, drawn by `seed`.
        masking: how training views keep their cells.
        bf16: compute in bfloat16 where autocast does.
        inverse_penalty: as `Probe.fit` takes it.
        after_batch: called after each batch; may raise.
        processes: among which the batches are shared out; the first fits the head, for all.
    """
    chosen = at_most(samples, seed)
    parts = []
    crops = centre_crops(processes.own(chosen, BATCH), masking.size)
    made = features_of(model, crops, masking, seed=seed, bf16=bf16)
    for features in processes.in_turns(made, -(-len(chosen) // BATCH)):
        parts.append(features)
        after_batch()
    labels = [sample.label for sample in chosen]

    def fit() -> Probe:
        return Probe.fit(
            np.concatenate(parts)[None], labels, sample_weights(chosen), inverse_penalty
        )

    processes.from_first(fit).put_into(model)


def at_most(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """MOST of the images, drawn by the seed, in their order; all if they are no more."""
    order = np.random.default_rng((seed, 3)).permutation(len(samples))[:MOST]
    return [samples[index] for index in sorted(order)]


def sample_weights(samples: Sequence[Sample], power: float = GROUP_POWER) -> F64:
    """What each image counts, f64 [n]: both classes alike, and 1 on average.

    Within a class, a generator or source counts by the root of its images: what is learnt of one
    serves it alone, so many images of few must not drown few of many.

    Args:
        power: of the size of an image's group; 0 for images alike, -1 for groups alike.
    """
    groups = [(sample.label, sample.generator or sample.source or sample.set) for sample in samples]
    sizes = Counter(groups)
    weights = np.array([sizes[group] ** power for group in groups])
    labels = np.array([sample.label for sample in samples])
    for label in (0, 1):
        weights[labels == label] *= len(samples) / 2 / weights[labels == label].sum()
    return weights


class FrozenModel:
    """The baseline for `mpft_deploy.evaluate`: a frozen backbone with a linear probe.

    The probe is fitted when logits are first asked for, so that a finished evaluation is read
    without it.
    """

    def __init__(
        self,
        backbone: Backbone,
        samples: Sequence[Sample],
        keep: str = "all",
        *,
        depth: int | None = None,
        device: str = "auto",
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        """A baseline that is yet to be fitted.

        Args:
            samples: images to fit the probe on; both classes, all readable. At most MOST are used.
            keep: the keep rule, of fitting and of evaluation.
            depth: how many of the backbone's blocks are used; None for all.
            device: `auto`, `cpu` or `cuda`.
            report: told when the probe is being fitted.
        """
        require_both_classes(samples, "the data of --train")
        tower = backbone.geometry
        blocks = tower.architecture.layers if depth is None else depth
        if blocks > tower.architecture.layers:
            raise UsageError(
                f"depth {blocks} exceeds the {tower.architecture.layers} blocks of "
                f"{tower.architecture.name}"
            )
        rule = KeepRule.parse(keep)
        rule.resolve(tower.cells)
        self.keeps = [str(rule)]
        self.spec = DetectorSpec(
            architecture=tower.architecture,
            depth=blocks,
            patch=tower.patch,
            crop=Crop(size=tower.size),
            train_keep=str(rule),
            fill="drop",
            keep=str(rule),
        )
        self.name = f"frozen {tower.architecture.name}, {blocks} blocks, linear probe"
        digest = hashlib.sha256()
        for name, weight in sorted(backbone.weights.items()):
            digest.update(name.encode() + weight.numpy().tobytes())
        self.identity = f"frozen {digest.hexdigest()} on {fingerprint(samples)}"
        self._backbone, self._samples, self._report = backbone, samples, report
        self._device = choose_device(device)

    @cached_property
    def _model(self) -> Detector:
        self._report(f"fitting the probe on {min(len(self._samples), MOST)} images")
        model = Detector.from_backbone(self._backbone, self.spec.depth).to(self._device)
        masking = Masking((self.spec.keep_rule,), False, self.spec.patch, self.spec.crop.size)
        fit_head(model, self._samples, masking, seed=0, bf16=False)
        return model.eval()

    def logits(self, crops: U8) -> F32:
        """Views u8 [n, S, S, 3] → logits f32 [1, n]."""
        return crop_logits(self._model, crops, self.spec.keep_rule)[None]
