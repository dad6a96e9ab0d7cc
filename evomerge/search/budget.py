"""When a search ends."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evomerge.errors import ConfigError, Problem


class Budget(BaseModel):
    """When a search, or a stage of one, ends: at the first of these limits.

    Attributes:
        evaluations: candidates asked of the optimizer; baselines come on top.
        seconds: of search time, summed over all sessions; baselines count for the first stage.
        gpu_hours: search time in hours times the GPUs that open or opening workers hold; of earlier
            sessions, as if all workers had been open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluations: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _limited(self) -> Budget:
        if self.evaluations is None and self.seconds is None and self.gpu_hours is None:
            raise ValueError("give evaluations, seconds or gpu_hours, or several")
        return self

    def require_gpus(self, gpus: float) -> None:
        """Raise for GPU hours where the workers, all together, hold no GPU.

        Raises:
            ConfigError: says what to set.
        """
        if self.gpu_hours is not None and not gpus:
            text = f"{self.gpu_hours:g}, but the workers hold no GPU."
            cure = "Give executor.gpus_per_worker, or limit seconds or evaluations instead."
            raise ConfigError(Problem(("budget", "gpu_hours"), text, cure))

    def reached(self, evaluations: int, seconds: float, gpu_hours: float) -> bool:
        """Whether any limit is reached."""
        return (
            (self.evaluations is not None and evaluations >= self.evaluations)
            or (self.seconds is not None and seconds >= self.seconds)
            or (self.gpu_hours is not None and gpu_hours >= self.gpu_hours)
        )
