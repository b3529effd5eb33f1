"""What a recipe says of the losses (``loss:``)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hfgd.errors import HfgdError, unknown

Normalise = Literal["valid", "all"]
# the keys of criteria.CRITERIA; a test compares them
CRITERION_NAMES = ("cross_entropy", "ohem", "focal", "dice", "lovasz", "tversky")


def _criteria(value: Any) -> Any:
    """A name, or weights by name; refused in words that name the value."""
    if not value or not isinstance(value, str | Mapping):
        raise ValueError("give the name of a criterion, or {name: weight, …}")
    for name in [value] if isinstance(value, str) else value:
        if name not in CRITERION_NAMES:
            raise ValueError(str(unknown("criterion", str(name), CRITERION_NAMES)))
    if isinstance(value, Mapping):
        for name, weight in value.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
                raise ValueError(f"the weight of '{name}' must be a number above 0, not {weight!r}")
        return {name: float(weight) for name, weight in value.items()}
    return value


Criteria = Annotated[Any, BeforeValidator(_criteria)]


class LossSpec(BaseModel):
    """Weights of the terms, their criteria, and what cross-entropy is averaged over.

    ``criterion``: what the fine branch is trained by, a name or ``{name: weight, …}``, whose terms are
    added up; ``guide_criterion``: the guide's, which stays the paper's cross-entropy unless it is said.
    ``normalise``: 'valid' is the mean over labelled pixels (0 for a batch without any); 'all' is
    the authors', the sum over labelled pixels divided by the number of all pixels.
    ``class_weights``: one for each class, in the cross-entropies; 'valid' is then the weighted mean,
    as PyTorch's. ``hfgd data class-weights`` computes some. Dice, Tversky and Lovász are means over
    classes, weighted by them. ``label_smoothing`` acts in every cross_entropy and ohem, of the guide
    and the auxiliary branches too. ``ohem_min_kept``: a share of the labelled pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    criterion: Criteria = "cross_entropy"
    guide_criterion: Criteria = "cross_entropy"
    fine: float = Field(1.0, ge=0)
    guide: float = Field(1.0, ge=0)
    aux: float = Field(0.4, ge=0)
    region: float = Field(0.4, ge=0)
    car: float = Field(1.0, ge=0)
    normalise: Normalise = "valid"
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ohem_threshold: float = Field(0.7, gt=0, lt=1)
    ohem_min_kept: float = Field(1 / 16, ge=0, le=1)
    focal_gamma: float = Field(2.0, ge=0)
    tversky_alpha: float = Field(0.3, ge=0)
    tversky_beta: float = Field(0.7, ge=0)

    def criteria(self, branch: str) -> dict[str, float]:
        """The criteria of a branch, with their weights; the auxiliary ones have cross-entropy."""
        chosen = {"fine": self.criterion, "guide": self.guide_criterion}.get(
            branch, "cross_entropy"
        )
        return {chosen: 1.0} if isinstance(chosen, str) else dict(chosen)


def check_class_weights(spec: LossSpec, num_classes: int) -> None:
    """Refuse class weights that are not one for each class."""
    if spec.class_weights is not None and len(spec.class_weights) != num_classes:
        raise HfgdError(
            f"loss.class_weights has {len(spec.class_weights)} weights for {num_classes} classes; "
            "give one for each, in the order of data.yaml."
        )
