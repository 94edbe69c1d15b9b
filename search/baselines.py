"""The first trials: what anybody would try, the allocator's plans on prior and measured values, and a coarse grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice, product
from typing import Any

from search.rungs import RANGE
from space.allocate import allocate_plan
from space.choices import WIDTH_STEPS, width_of
from space.layout import Layout, Tower
from space.limits import Limits
from space.plan import NO_HEAL, REMOVED, Heal, Layer, Plan, removed_sublayers, uniform_plan
from space.policy import Loss, multipliers
from space.prior import GAP, Coverage, prior_loss
from space.rates import Rate, uniform_rates
from space.spread import in_turns, spread

# Attributes of trials that were not proposed by a sampler; every rung is run for those of the first kinds.
WHOLE_KINDS = BASELINE, ALLOCATED = "baseline", "allocator"
START_KINDS = (*WHOLE_KINDS, "warm start", "narrowed")
_GONE = Layer(REMOVED, REMOVED)
_MOST_BASELINES = 6
# Shares of the FFN channels that stay in plans of the grid, in sixteenths, and how many plans there are at most.
_WIDTHS = (4, 6, 10, 13)
_MOST_NARROWED = 15
# What good plans of the bundled model have on the mean in the bins where much has to go.
_USUAL_BITS = 1.6


@dataclass(frozen=True)
class Start:
    """A plan that is tried before any sampler proposes; `kind` is an attribute of its trial.

    Baselines and the allocator's plans go through every rung, those of other studies (warm starts) and of the grid
    (narrowed) only where they do well. `kept` are further attributes of the trial.
    """

    kind: str
    name: str
    plan: Plan
    kept: Mapping[str, Any] = field(default_factory=dict)


def policy_attribute(basis: str) -> str:
    """The user attribute that a trial's policy is kept in; `basis` is the name of the losses it changes."""
    return f"policy on {basis}"


def losses_of(limits: Limits, coverage: Coverage, measured: Loss | None = None) -> dict[str, Loss]:
    """What options cost by themselves, by what it is known from, the best guess last."""
    prior: dict[str, Loss] = {"prior values": prior_loss(limits.layout, coverage)}
    return prior if measured is None else {**prior, "sensitivities": measured}


def starts(
    limits: Limits,
    losses: Mapping[str, Loss],
    heal: Heal,
    trials: int,
    warm: Sequence[Start] = (),
    *,
    grid: bool = True,
) -> list[Start]:
    """Simple baselines, healed for `heal`, the allocator's plans on each of `losses`, healed or not, `warm` ones, grid.

    An allocator's plan has the least sum of losses. Where there are several and `trials` are too few for all of these,
    the one on the last of `losses`, the best guess, comes first. The grid, if there is to be one, has at most a tenth
    of the trials. Of warm starts and of the grid none repeats a plan.
    """
    first = _simple(limits, heal)
    for values, loss in losses.items():
        healed = _allocated(limits, values, loss, heal)
        first.append(healed)
        if heal.steps:
            first.append(_unhealed(values, healed.plan))
    if len(losses) > 1 and trials < len(first):
        first.sort(key=lambda start: start is not healed)
    return _with_others(first, [*warm, *_grid(limits, heal, min(_MOST_NARROWED, trials // 10) if grid else 0)])


def few_starts(
    limits: Limits, losses: Mapping[str, Loss], heal: Heal, trials: int, warm: Sequence[Start] = ()
) -> list[Start]:
    """What one of several ranges begins with: a baseline, the allocator's plan on the best guess, `warm`, of the grid.

    Of baselines the one in the middle, of the grid the shallowest and the deepest first. Each names the range;
    `trials` are those of the range, all of whose plans are healed for `heal`.
    """
    simple, (values, loss) = _simple(limits, heal), list(losses.items())[-1]
    middle = len(simple) // 2
    grid = sorted(_grid(limits, heal, _MOST_NARROWED), key=lambda start: removed_sublayers(start.plan))
    first = [*simple[middle : middle + 1], _allocated(limits, values, loss, heal)]
    chosen = _with_others(first, [*warm, *spread(grid, max(1, trials // 10))])
    name = limits.size_range.name
    return [replace(start, name=f"{start.name}, {name}", kept={**start.kept, RANGE: name}) for start in chosen]


def _simple(limits: Limits, heal: Heal) -> list[Start]:
    return [Start(BASELINE, name, plan) for name, plan in baselines(limits, heal)]


def _with_others(first: Sequence[Start], others: Sequence[Start]) -> list[Start]:
    """First plans, and of the others those that none before them has."""
    found, plans = list(first), {start.plan for start in first}
    for start in others:
        if start.plan not in plans:
            plans.add(start.plan)
            found.append(start)
    return found


def _allocated(limits: Limits, values: str, loss: Loss, heal: Heal) -> Start:
    """The allocator's plan on the `loss` of that name: what the policy of nothing but zeros leads to."""
    policy = dict.fromkeys(multipliers(limits.layout), 0.0)
    plan = least_loss_plan(limits, loss, heal)
    return Start(ALLOCATED, f"{values}, {heal.steps} heal steps", plan, {policy_attribute(values): policy})


def _unhealed(values: str, plan: Plan) -> Start:
    """Of no policy: all plans of policies are healed for as long as trials can."""
    return Start(ALLOCATED, f"{values}, 0 heal steps", replace(plan, heal=replace(plan.heal, steps=0)))


def _grid(limits: Limits, heal: Heal, count: int) -> list[Start]:
    return [Start("narrowed", name, plan) for name, plan in islice(narrowed(limits, heal), count)]


def least_loss_plan(limits: Limits, loss: Loss, heal: Heal = NO_HEAL, gap: float = GAP) -> Plan:
    """The plan inside the limits whose options' losses have the least sum, to a proven gap."""
    return allocate_plan(limits, lambda name, option: -loss(name, option), gap=gap, heal=heal)[0]


def baselines(limits: Limits, heal: Heal) -> Iterator[tuple[str, Plan]]:
    """One rate for everything, and middle layers removed with the rest at as many bits as then fit.

    Named plans inside the limits, at most a few: the numbers of removed layers are spread over those that fit.
    """
    found: dict[int, tuple[Rate, Plan]] = {}
    for rate in reversed(uniform_rates(limits.layout.rates)):
        for removed in range(max(tower.layers for tower in limits.layout.towers)):
            plan = without_middle_layers(limits.layout, rate, removed, heal)
            if limits.hold(plan):
                found.setdefault(removed, (rate, plan))
                break
    for removed in spread(sorted(found), _MOST_BASELINES):
        rate, plan = found[removed]
        name = f"{removed} middle layers removed" if removed else "uniform"
        yield f"{name}, {rate.bits} bits", plan


def narrowed(limits: Limits, heal: Heal) -> Iterator[tuple[str, Plan]]:
    """Middle layers removed, in the encoder as many as in the decoder or one more, and FFNs of the rest narrowed.

    At as many bits as then fit. Named plans inside the limits: of each number of removed decoder layers, the fewest
    first, the one whose bits are nearest to what good plans have, then the next one of each.
    """
    found: dict[Plan, tuple[int, float, str]] = {}
    most = max(tower.layers for tower in limits.layout.towers)
    for width, decoder, more in product(_WIDTHS, range(most), (0, 1) if limits.layout.encoder else (0,)):
        for rate in reversed(uniform_rates(limits.layout.rates)):
            plan = _narrowed(limits.layout, rate, (decoder + more, decoder), width, heal)
            if limits.hold(plan):
                removed = f"{decoder + more} and {decoder} middle layers removed"
                name = f"{removed}, {width}/{WIDTH_STEPS} of the channels, {rate.bits} bits"
                found.setdefault(plan, (decoder, abs(rate.bits - _USUAL_BITS), name))
                break
    depths = groupby(sorted(found, key=lambda one: found[one]), key=lambda one: found[one][0])
    yield from ((found[plan][2], plan) for plan in in_turns([list(plans) for _, plans in depths]))


def _narrowed(layout: Layout, rate: Rate, removed: tuple[int, int], width: int, heal: Heal) -> Plan:
    """`removed` are the middle layers that go of encoder and decoder."""
    encoder, decoder = (without_middle_layers(layout, rate, count, heal) for count in removed)

    def cut(tower: Tower, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        kept = width_of(width, tower.ffn)
        return tuple(replace(x, ffn=replace(x.ffn, kept=kept)) if x.ffn.kept else x for x in layers)

    stacks = {tower.name: tower for tower in layout.towers}
    return replace(
        decoder,
        encoder=cut(stacks["encoder"], encoder.encoder) if "encoder" in stacks else (),
        decoder=cut(stacks["decoder"], decoder.decoder),
    )


def without_middle_layers(layout: Layout, rate: Rate, removed: int, heal: Heal) -> Plan:
    """Everything at one rate, `removed` layers gone from the middle of each tower; each tower keeps at least one."""
    plan = uniform_plan(layout, rate, heal)

    def cut(tower: Tower) -> tuple[Layer, ...]:
        layers = plan.layers(tower)
        count = min(removed, len(layers) - 1)
        first = (len(layers) - count + 1) // 2
        return (*layers[:first], *(_GONE,) * count, *layers[first + count :])

    stacks = {tower.name: cut(tower) for tower in layout.towers}
    return replace(plan, encoder=stacks.get("encoder", ()), decoder=stacks["decoder"])
