"""Drafts: the losses of policies on arrays, and plans as the allocator's to within a few percent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.baselines import least_loss_plan
from space.allocate import groups_of
from space.bins import bin_range, max_size_range
from space.choices import choices_of
from space.drafts import Drafts
from space.limits import Limits
from space.plan import Heal, Plan
from space.policy import Loss, multipliers, policy_loss
from space.prior import prior_loss
from tests.space.test_laws import READER, SEVEN_B, TRIMMED, files

LIMITS = st.sampled_from(
    [Limits(layout, max_size_range(size), files) for layout, size in ((TRIMMED, "150kB"), (READER, "250kB"))]
)


def summed(plan: Plan, limits: Limits, loss: Loss) -> float:
    return sum(loss(name, option) for name, option in choices_of(limits.layout, plan).items())


@given(LIMITS, st.data())
@settings(max_examples=20)
def test_losses_on_arrays_are_those_of_policies(limits: Limits, data: st.DataObject) -> None:
    bounds = multipliers(limits.layout)
    policy = {name: data.draw(st.floats(*ends)) for name, ends in bounds.items()}
    loss = prior_loss(limits.layout)
    shaped = policy_loss(limits.layout, loss)(policy)
    names, options, _ = groups_of(limits, lambda _name, _option: 0.0)
    plain = [
        sum(shaped(name, option) for name, option in zip(several, joint, strict=True))
        for several, group in zip(names, options, strict=True)
        for joint in group
    ]
    assert Drafts(limits, loss)._terms.losses(policy) == pytest.approx(np.array(plain), rel=1e-9, abs=1e-12)


@given(LIMITS, st.integers(0, 2**16))
@settings(max_examples=20)
def test_a_draft_is_inside_and_nearly_as_good_as_what_the_allocator_proves(limits: Limits, seed: int) -> None:
    rng = np.random.default_rng(seed)
    policy = {name: rng.uniform(*ends) for name, ends in multipliers(limits.layout).items()}
    loss = prior_loss(limits.layout)
    draft = Drafts(limits, loss).plan(policy, Heal(25))
    assert draft is not None
    assert limits.hold(draft)
    assert draft.heal == Heal(25)
    shaped = policy_loss(limits.layout, loss)(policy)
    exact = summed(least_loss_plan(limits, shaped), limits, shaped)
    assert exact <= summed(draft, limits, shaped) * (1 + 1e-9)
    assert summed(draft, limits, shaped) <= 1.25 * exact


def test_the_largest_model_is_drafted() -> None:
    limits = Limits(SEVEN_B, bin_range(3, SEVEN_B.source_bytes), files)
    loss = prior_loss(SEVEN_B)
    none = dict.fromkeys(multipliers(SEVEN_B), 0.0)
    draft = Drafts(limits, loss).plan(none)
    assert draft is not None
    shaped = policy_loss(SEVEN_B, loss)(none)
    assert summed(draft, limits, shaped) <= 1.02 * summed(least_loss_plan(limits, shaped, gap=1e-3), limits, shaped)
    assert draft == Drafts(limits, loss).plan(none)
