"""The experiments of the two papers, SENN (arXiv 2307.04526) and SECNN (arXiv 2401.05686), one a module.

A module has `jobs(seeds)`, `run(job, at)`, which does one of them and returns its line, `told(line)`, what that says in
a few words, `tables(lines)`, and `figures(lines)` by file name. `reproduce.py` runs them.
"""

from types import ModuleType

from seeds import cifar, moons, regression, transfer, width

EXPERIMENTS: dict[str, ModuleType] = {
    "regression": regression,
    "moons": moons,
    "width": width,
    "cifar": cifar,
    "transfer": transfer,
}
