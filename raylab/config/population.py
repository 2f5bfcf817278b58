"""Population-based training: a search that changes fields on the way."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylab.config.base import Config, Positive


class PopulationConfig(Config):
    """A population of models whose searched fields change while they train (Jaderberg et al. 2017).

    All members train alike long parts of their steps, one part a generation. After each but the last, the worst members
    go on from copies of the best (exploit), with other values (explore).
    """

    size: Annotated[int, Field(ge=2)] = Field(8, description="Members of each generation.")
    generations: Annotated[int, Field(ge=2)] = Field(5, description="Parts into which pretrain.steps are cut.")
    quantile: Annotated[float, Field(gt=0.0, le=0.5)] = Field(
        0.25, description="Share of the members that copies of as many of the best replace (truncation selection)."
    )
    factors: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        (0.8, 1.25), description="A copy's value is multiplied by one of them, drawn for each field (perturb)."
    )
    resample_probability: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.25, description="Probability that a copy's value is drawn from the space instead."
    )

    @property
    def trials(self) -> int:
        """One for each member of each generation."""
        return self.size * self.generations

    def ends(self, steps: int) -> list[int]:
        """The last step of each generation, of so many steps in all."""
        return [steps * done // self.generations for done in range(1, self.generations + 1)]
