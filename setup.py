"""Installs mmscale and mmscale_kernels, with configs/, launch/ and benchmarks/ inside as mmscale.configs and so on."""

from setuptools import find_packages, setup

shipped = {
    "mmscale.benchmarks": "benchmarks",
    "mmscale.configs": "configs",
    "mmscale.launch": "launch",
    "mmscale_kernels": "kernels/mmscale_kernels",
    "mmscale_kernels.gpu": "kernels/mmscale_kernels/gpu",
}

setup(
    name="mmscale",
    version="0.1.0",
    description="Multilingual reasoning for LLMs: question alignment, MindMerger, multilingual CoT, proxy-tuning",
    python_requires=">=3.10",
    packages=[*find_packages(include=["mmscale", "mmscale.*"]), *shipped],
    package_dir=shipped,
    package_data={
        "mmscale_kernels": ["*.json"],
        "mmscale.configs": ["*.yaml", "*/*.yaml"],
        "mmscale.launch": ["slurm/*.j2"],
        "mmscale.reporting": ["templates/*"],
        "mmscale.tinyworld": ["lexicon/*.yaml", "artifacts/*/*"],
    },
    install_requires=[
        "torch>=2.6",
        "transformers>=5.0",
        "safetensors>=0.5",
        "datasets>=3.0",
        "tokenizers>=0.22",
        "sentencepiece>=0.2",
        "numpy>=1.26",
        "pydantic>=2.7",
        "PyYAML>=6.0",
        "typer>=0.29",
        "rich>=13.0",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "scipy>=1.11",
        "datasketch>=1.6",
    ],
    extras_require={
        "gpu": ["flash-attn>=2.6; platform_system == 'Linux'"],
        "deepspeed": ["deepspeed>=0.17", "accelerate>=1.1"],  # transformers loads ZeRO-3 models through accelerate
        "tensor-parallel": ["megatron-core>=0.16", "accelerate>=1.1"],
        "quantization": ["bitsandbytes>=0.46"],
        "mpi": ["mpi4py>=4.0"],
        "tracking": ["tensorboard>=2.15"],
        "dev": [
            "pytest>=8.0",
            "ruff>=0.9",
            "mypy>=1.14",
            "types-PyYAML",
            "hypothesis>=6.100",
            "selenium>=4.20",
            "tensorboard>=2.15",
            "tiktoken>=0.9",
            "psutil>=5.9",
            "deepspeed>=0.17",
            "accelerate>=1.1",
            "megatron-core>=0.16",
            "bitsandbytes>=0.46; platform_system == 'Linux'",
            "triton>=3.4; platform_system == 'Linux'",
            "mpi4py>=4.0",
            "mpich>=4.2; platform_system == 'Linux'",
        ],
    },
    entry_points={"console_scripts": ["mmscale=mmscale.cli.main:main"]},
)
