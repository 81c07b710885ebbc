"""Which folders are packages; everything else about the distribution is in pyproject.toml.

configs/, launch/ and benchmarks/ are installed inside mmscale, as mmscale.configs and so on; pyproject.toml cannot both find
packages and put some of them elsewhere.
"""

from setuptools import find_packages, setup

ELSEWHERE = {
    "mmscale.benchmarks": "benchmarks",
    "mmscale.configs": "configs",
    "mmscale.launch": "launch",
    "mmscale_kernels": "kernels/mmscale_kernels",
    "mmscale_kernels.gpu": "kernels/mmscale_kernels/gpu",
}

setup(packages=[*find_packages(include=["mmscale", "mmscale.*"]), *ELSEWHERE], package_dir=ELSEWHERE)
