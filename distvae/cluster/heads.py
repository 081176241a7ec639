"""Which likelihood each feature has, and how its values are coded for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distvae.config import TrainConfig
from distvae.data.profile import Profile
from distvae.data.roles import Feature, require_known
from distvae.errors import UsageError

__all__ = ["choose_heads", "coding_of", "with_zero_inflation"]

_COUNTS = ("negative-binomial", "zero-inflated-negative-binomial")
_CODINGS = {"histogram": "cells", "categorical": "cells", "bernoulli": "unit"} | dict.fromkeys(
    _COUNTS, "count"
)
_ZERO_MARGIN = 0.02
"""Share of zeros beyond the negative binomial's own that calls for more of them."""


def coding_of(head: str) -> str:
    """How the codec codes the values of a feature with this head."""
    return _CODINGS.get(head.partition(":")[0], "standard")


def choose_heads(config: TrainConfig, features: Sequence[Feature]) -> dict[str, str]:
    """The likelihood of each feature, by name; ``*`` names all that can have it.

    Empty for kinds without heads.

    Raises:
        UsageError: an unknown column or head, or a head that does not fit the column's role.
    """
    if config.kind not in ("vae", "autoencoder"):
        return {}
    roles = {feature.name: feature for feature in features}
    heads = {name: _default(config.kind, feature) for name, feature in roles.items()}
    for column, head in config.likelihood.items():
        if column == "*":
            _refuse_bad_head(column, head)
            heads |= {name: head for name, feature in roles.items() if _fits(head, feature)}
            continue
        require_known("likelihood", [column], list(roles))
        _refuse_bad_head(column, head)
        if not _fits(head, roles[column]):
            raise UsageError(
                f"likelihood.{column}",
                f"got {head!r}",
                f"a {roles[column].role} column of {roles[column].type} has no such likelihood",
                f"leave it out: the default is {heads[column]}",
            )
        heads[column] = head
    if config.binarize == "dynamic" and "bernoulli" not in heads.values():
        raise UsageError(
            "binarize",
            "got dynamic",
            "needs a bernoulli likelihood",
            "add --likelihood COL=bernoulli",
        )
    return heads


def with_zero_inflation(
    heads: Mapping[str, str], profile: Profile, chosen: Mapping[str, str]
) -> dict[str, str]:
    """The heads with a zero-inflated one where a count column has more zeros than its own.

    A negative binomial of the sample's mean m and variance v has r = m^2 / (v - m) and
    P(0) = (r / (r + m))^r; v <= m counts as Poisson, P(0) = e^-m.

    Args:
        heads: by feature name.
        profile: with a sample of each column.
        chosen: what the user asked for; those stay.
    """
    result = dict(heads)
    for name, head in heads.items():
        if head != "negative-binomial" or name in chosen or "*" in chosen:
            continue
        sample = profile.columns[name].sample
        assert sample is not None  # a count is a scalar column
        x = pc.cast(sample.drop_null(), pa.float64()).to_numpy(zero_copy_only=False)
        x = x[np.isfinite(x)]
        if len(x) == 0 or not (mean := float(x.mean())) > 0:
            continue
        excess = float(x.var()) - mean
        size = mean * mean / excess if excess > 0 else np.inf
        zeros = np.exp(-mean) if np.isinf(size) else (size / (size + mean)) ** size
        if float((x == 0).mean()) > zeros + _ZERO_MARGIN:
            result[name] = "zero-inflated-negative-binomial"
    return result


def _default(kind: str, feature: Feature) -> str:
    """What measures best for the role; squared error is what an autoencoder minimises."""
    if feature.role in ("boolean", "categorical"):
        return "categorical"
    if feature.role == "datetime":
        return "histogram"
    if feature.role == "count":
        return "negative-binomial"
    if kind == "autoencoder":
        return "gaussian-fixed"
    return "gaussian" if feature.role == "vector" else "histogram"


def _fits(head: str, feature: Feature) -> bool:
    name = head.partition(":")[0]
    if feature.role in ("boolean", "categorical"):
        return name == "categorical"
    if feature.role == "datetime":
        return name == "histogram"
    if feature.role == "vector":
        return name not in ("categorical", "histogram", *_COUNTS)
    return name != "categorical"


def _refuse_bad_head(column: str, head: str) -> None:
    """A head's name and argument, judged before anything starts."""
    if head in _CODINGS:
        return
    import torch

    from distvae.model.likelihoods import Elements, make_head

    one = torch.ones(1)
    try:
        make_head(head, Elements(one, one, one, discrete=False))
    except UsageError as error:
        _, value, rule, remedy = error.args
        raise UsageError(f"likelihood.{column}", f"got {value}", rule, remedy) from None
