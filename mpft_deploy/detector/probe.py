"""A linear probe of the frozen backbone: the head's start, and the baseline to beat."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

from mpft_deploy.dataset import Sample, fingerprint, require_both_classes
from mpft_deploy.detector.backbone import Backbone
from mpft_deploy.detector.batches import Masking, disturbed_crops
from mpft_deploy.detector.evaluate import centre_crops, crop_logits
from mpft_deploy.detector.model import NORM_EPS, Detector, choose_device
from mpft_deploy.errors import UsageError
from mpft_deploy.images import U8
from mpft_deploy.spec import Crop, DetectorSpec, KeepRule
from mpft_deploy.weights import F32

F64 = npt.NDArray[np.float64]

MOST = 4096
"""Images that the probe is fitted on; more change it little."""

LOOKS = 3
"""Random views of each image as it may arrive, where it is fitted on such."""

INVERSE_PENALTY = 0.01
"""As good as 0.1 on unseen generators, and logits that int8 disturbs less beside their spread."""


def fit_head(
    model: Detector,
    samples: Sequence[Sample],
    masking: Masking,
    *,
    seed: int,
    bf16: bool,
    inverse_penalty: float = INVERSE_PENALTY,
    disturbed: bool = False,
    after_batch: Callable[[], None] = lambda: None,
) -> None:
    """Set a model's head and the statistics before it from its features of training images.

    Starting from the probe spares the backbone the gradients of a random head (Kumar et al.,
    arXiv 2202.10054).

    Args:
        samples: both classes; at most MOST of them are used, drawn by `seed`.
        masking: how training views keep their cells.
        bf16: compute in bfloat16 where autocast does.
        inverse_penalty: how little large weights of the standardised components are penalised.
        disturbed: whether each image is seen as it may arrive, LOOKS times: resized or blurred,
            and re-saved. Without, once, at its centre, and the head takes traces of a format, or of
            such changes, for those of a generator.
        after_batch: called after each batch; may raise.
    """
    order = np.random.default_rng((seed, 3)).permutation(len(samples))[:MOST]
    chosen = [samples[index] for index in sorted(order)]
    device = next(model.parameters()).device
    model.eval()
    parts = []
    looks = [centre_crops(chosen, masking.size)]
    if disturbed:
        looks = [disturbed_crops(chosen, masking.size, seed, look) for look in range(LOOKS)]
    for crops in chain(*looks):
        patches, positions = masking.encode(crops, seed)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts.append(model.features(patches.to(device), positions.to(device)).cpu().numpy())
        after_batch()
    features = np.concatenate(parts)
    centre, variance = features.mean(0), features.var(0)
    probe = LogisticRegression(C=inverse_penalty, max_iter=3000)
    probe.fit(
        (features - centre) / np.sqrt(variance + NORM_EPS),
        [sample.label for sample in chosen] * len(looks),
        np.tile(sample_weights(chosen), len(looks)),
    )
    running_mean, running_variance = model.norm_statistics()
    with torch.no_grad():
        for target, value in (
            (running_mean, centre),
            (running_variance, variance),
            (model.head.weight, probe.coef_),
            (model.head.bias, probe.intercept_),
        ):
            target.copy_(torch.from_numpy(value))


def sample_weights(samples: Sequence[Sample]) -> F64:
    """What each image counts, f64 [n]: both classes alike, and 1 on average.

    Within a class, a generator or source counts by the root of its images: what is learnt of one
    serves it alone, so many images of few must not drown few of many.
    """
    groups = [(sample.label, sample.generator or sample.source or sample.set) for sample in samples]
    sizes = Counter(groups)
    weights = np.array([sizes[group] ** -0.5 for group in groups])
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
