"""`regmean`: each linear layer by least squares on its inputs in the fine-tuned models (arXiv 2212.09849)."""

from __future__ import annotations

from dem_build.actions.compose.methods.method import Method

REGMEAN = Method(
    name="regmean",
    formula="argmin_W Σ aᵢ ‖W xᵢ − Wᵢ xᵢ‖² + λ ‖W − W₀‖²",
    sentence=(
        "RegMean (arXiv 2212.09849): each linear map `W` minimises `Σ a_i ‖W x_i − W_i x_i‖²` with a ridge (λ is "
        "`ridge`) towards `W₀ = Θ + Σ a_i ΔΘ_i / Σ a_i`, where `W_i` is the map in the base "
        "fine-tuned on dataset `i` and `x_i` are its inputs there on a few training rows; all else is `W₀`"
    ),
    keeps="what each linear layer does to the inputs that it had in each model",
    omega="the dataset's importance a",
    default=1.0,
    shares=True,
    sampled=True,
    keys=("rows", "ridge"),
)
