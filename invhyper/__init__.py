"""invhyper: inverse problems and calibrations that tune themselves by exact hypergradients.

minimise over theta   F(theta) = C(x*(theta), theta),   where x*(theta) solves the lower level
"""

import importlib
import os

import jax

if "JAX_ENABLE_X64" not in os.environ:
    jax.config.update("jax_enable_x64", True)

# Where each public name lives. A name is imported when it is first used, so that cvxpy, diffrax, matplotlib and
# scikit-learn cost nothing to those who do not use them.
_HOME = {
    "problem": "Certificate Evaluation Iteration Linearisation LowerLevel NotConverged Solution solve",
    "bilevel": "Bilevel",
    "fixed_point": "FixedPoint",
    "together": "Together",
    "linear_solvers": "CG Direct GMRES Neumann",
    "criteria.validation": "HeldOut KFold Mean Truth log_loss squared",
    "criteria.misfit": "Misfit",
    "criteria.error_models": "AdditiveError CombinedError ProportionalError",
    "criteria.subjects": "Records",
    "criteria.likelihood": "AGQ FO FOCE FOCEI Laplace",
    "criteria.quality": "psnr ssim",
    "operators.differences": "Differences",
    "operators.blur": "Blur",
    "operators.mask": "Mask",
    "operators.identity": "Identity",
    "operators.adapters": "from_functions from_scipy",
    "lower.smooth": "Smooth",
    "lower.ridge": "Ridge",
    "lower.logistic": "Logistic",
    "lower.lasso": "ElasticNet",
    "lower.bpdn": "BPDN Lasso",
    "lower.total_variation": "HuberTV TotalVariation",
    "lower.composite": "AnalysisL1 Composite",
    "lower.tgv": "TGV",
    "penalties": "Huber L1 Penalty SmoothedL1 SmoothedTV TV",
    "iterations.split_bregman": "SplitBregman",
    "iterations.pdhg": "PDHG",
    "iterations.dual_fista": "DualFISTA",
    "iterations.optimisers": "AdamIteration GradientDescent Momentum",
    "iterations.optax_steps": "Optax",
    "iterations.proximal": "ProximalGradient",
    "iterations.schedules": "Constant Cosine InverseTime Piecewise",
    "iterations.hypergradient_descent": "HypergradientDescent",
    "iterations.minibatches": "minibatches",
    "lower.scikit": "from_sklearn to_sklearn weight_max",
    "lower.ode": "Calibration",
    "lower.population": "Population",
    "lower.simulator": "Doses",
    "lower.ode_predict": "ode_predict",
    "lower.rosenbrock": "Rodas5P",
    "lower.convex": "Cone",
    "lower.basis_pursuit": "BasisPursuit",
    "hypergradient.implicit": "Implicit",
    "hypergradient.unrolled": "Unrolled",
    "hypergradient.forward": "Forward",
    "hypergradient.one_step": "OneStep",
    "hypergradient.spectrum": "spectrum",
    "eigenvalues": "Spectrum",
    "hypergradient.layer": "layer",
    "hypergradient.sensitivity": "sensitivity",
    "identifiability.band": "Band band",
    "identifiability.fisher": "Fisher fisher",
    "identifiability.profile": "Profile profile",
    "identifiability.verdict": "Identifiability Verdict identify",
    "population.model": "MixedEffects",
    "population.drawn": "Drawn",
    "population.estimates": "PopulationFit",
    "covariance": "cholesky",
    "parameters": "Parameters linear log log10 logit",
    "report": "Report Step",
    "search.bracket": "Bracket",
    "search.lbfgsb": "LBFGSB",
    "search.adam": "Adam",
    "search.descent": "Descent",
    "search.tune": "tune",
    "search.sweep": "sweep",
    "search.value_and_gradient": "value_and_gradient",
    "search.multistart": "multistart",
    "search.fits": "Fits fit_from latin_hypercube",
    "search.objective": "Search",
    "search.table": "table",
}
_MODULES = ("certificate", "plots", "operators", "tree")
_WHERE = {name: module for module, names in _HOME.items() for name in names.split()}

__version__ = "0.1.0"
__all__ = [*sorted(_WHERE), *_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"invhyper.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'invhyper' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"invhyper.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
