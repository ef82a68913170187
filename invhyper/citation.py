"""BibTeX of the methods, by the class that implements them."""

_FORWARD_AND_REVERSE = """@inproceedings{franceschi2017forward,
  title = {Forward and Reverse Gradient-Based Hyperparameter Optimization},
  author = {Franceschi, Luca and Donini, Michele and Frasconi, Paolo and Pontil, Massimiliano},
  booktitle = {Proceedings of the 34th International Conference on Machine Learning},
  series = {PMLR}, volume = {70}, pages = {1165--1173}, year = {2017},
  url = {https://proceedings.mlr.press/v70/franceschi17a.html},
}"""

_ENTRIES = {
    "invhyper": """@software{invhyper,
  title = {invhyper: inverse problems and calibrations that tune themselves by exact hypergradients},
  author = {{The invhyper developers}},
}""",
    "Implicit": """@article{bengio2000gradient,
  title = {Gradient-Based Optimization of Hyperparameters},
  author = {Bengio, Yoshua},
  journal = {Neural Computation},
  volume = {12}, number = {8}, pages = {1889--1900}, year = {2000},
  doi = {10.1162/089976600300015187},
}""",
    "Unrolled": _FORWARD_AND_REVERSE,
    "Forward": _FORWARD_AND_REVERSE,
    "OneStep": """@inproceedings{bolte2023onestep,
  title = {One-Step Differentiation of Iterative Algorithms},
  author = {Bolte, J{\\'e}r{\\^o}me and Pauwels, Edouard and Vaiter, Samuel},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {36}, year = {2023},
  eprint = {2305.13768}, archivePrefix = {arXiv},
}""",
    "Bracket": """@book{brent1973algorithms,
  title = {Algorithms for Minimization without Derivatives},
  author = {Brent, Richard P.},
  publisher = {Prentice-Hall}, year = {1973},
}""",
    "LBFGSB": """@article{byrd1995limited,
  title = {A Limited Memory Algorithm for Bound Constrained Optimization},
  author = {Byrd, Richard H. and Lu, Peihuang and Nocedal, Jorge and Zhu, Ciyou},
  journal = {SIAM Journal on Scientific Computing},
  volume = {16}, number = {5}, pages = {1190--1208}, year = {1995},
  doi = {10.1137/0916069},
}""",
    "Adam": """@inproceedings{kingma2015adam,
  title = {Adam: A Method for Stochastic Optimization},
  author = {Kingma, Diederik P. and Ba, Jimmy},
  booktitle = {International Conference on Learning Representations},
  year = {2015},
  eprint = {1412.6980}, archivePrefix = {arXiv},
}""",
    "Descent": """@misc{salehi2024adaptively,
  title = {An adaptively inexact first-order method for bilevel optimization with application to hyperparameter
           learning},
  author = {Salehi, Mohammad Sadegh and Mukherjee, Subhadip and Roberts, Lindon and Ehrhardt, Matthias J.},
  year = {2024}, eprint = {2308.10098}, archivePrefix = {arXiv}
}

@inproceedings{pedregosa2016hyperparameter,
  title = {Hyperparameter Optimization with Approximate Gradient},
  author = {Pedregosa, Fabian},
  booktitle = {Proceedings of the 33rd International Conference on Machine Learning},
  series = {PMLR}, volume = {48}, pages = {737--746}, year = {2016},
  url = {https://proceedings.mlr.press/v48/pedregosa16.html},
}""",
}


def bibtex(methods: list[str]) -> str:
    """The entries of invhyper and of the methods named (a method of the user's own has none).

    >>> bibtex(["LBFGSB"]).count("@")
    2
    """
    return "\n\n".join(_ENTRIES[name] for name in ["invhyper", *methods] if name in _ENTRIES)
