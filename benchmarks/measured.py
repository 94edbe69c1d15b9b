"""The bundled model with a bank, for benchmarks that look at its matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.gptq import Hessian
from compress.units import matrix
from corpora.roles import BUNDLED as CORPUS
from corpora.roles import Corpus, open_corpus
from models.anatomy import places
from models.loading import Source, load_source
from models.reference import BUNDLED
from search.workbench import Workbench, counted, make_workbench
from space.plan import uniform_plan
from space.rates import WHOLE

LANGUAGES = ("de", "zh")
DIRECTIONS = ("en-de", "en-zh")


@dataclass(frozen=True)
class Layer:
    """One matrix of the model with the Hessian of its inputs."""

    name: str
    weight: Tensor
    hessian: Hessian


def bundled() -> tuple[Source, Corpus, Workbench]:
    """The bundled model with its tokens counted, its corpus, and the workbench of a search."""
    corpus = open_corpus(CORPUS)
    source = counted(load_source(BUNDLED), corpus, LANGUAGES)
    return source, corpus, make_workbench(source, corpus, LANGUAGES)


@torch.no_grad()
def layers_of(source: Source, workbench: Workbench) -> list[Layer]:
    """The linear layers: those whose inputs are vectors, not tokens."""
    found = []
    for place in places(source.model, uniform_plan(source.layout, WHOLE)):
        for index, (module, hessian) in enumerate(
            zip(place.matrices, workbench.bank.hessians[place.name], strict=True)
        ):
            if isinstance(module, torch.nn.Linear):
                found.append(Layer(f"{place.name}.{index}", matrix(module).clone(), hessian))
    return found
