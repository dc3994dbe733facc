"""`match`: each linear layer is fitted, on a few training rows, to what the fine-tuned models put out there."""

from __future__ import annotations

from dem_build.actions.compose.methods.method import Method

MATCH = Method(
    name="match",
    formula="argmin_W Σ aᵢ ‖W zᵢ − Wᵢ xᵢ‖² + λ ‖W − W₀‖²",
    sentence=(
        "layer by layer, each linear map `W` minimises `Σ a_i ‖W z_i − W_i x_i‖²` with a ridge (λ is "
        "`ridge`) towards `W₀ = Θ + c Σ a_i ΔΘ_i / Σ a_i` (c is `prior`), over a few training rows of each dataset "
        "`i`: `x_i` is the map's input in the base fine-tuned on it, `W_i` the map there, `z_i` its input in the "
        "composed model; all else is `W₀`"
    ),
    keeps="what each linear layer puts out on each dataset's rows",
    omega="the dataset's importance a",
    default=1.0,
    tuned=True,
    shares=True,
    keys=("rows", "ridge", "prior", "saliency"),
)
