"""`bsk doctor`: what is here, what works, what to fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer


class Finding(NamedTuple):
    """One line of the report; `state` is ok, info, warning or problem."""

    name: str
    state: str
    text: str
    remedy: str = ""


_MARKS = {
    "ok": "[green]ok[/]",
    "info": "[dim]-[/]",
    "warning": "[yellow]![/]",
    "problem": "[red]X[/]",
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is here, what works and what to fix.

    Exits 0 if attention runs on something here, else 1.
    """
    findings = examine()
    runs = any(f.name.startswith("attention on") and f.state == "ok" for f in findings)
    if as_json:
        entries = [finding._asdict() for finding in findings]
        typer.echo(json.dumps({"attention_runs": runs, "findings": entries}, indent=1))
    else:
        _print(findings, runs)
    raise typer.Exit(0 if runs else 1)


def examine() -> list[Finding]:
    """All findings, in the order of the report. A check that fails is a finding, not an error."""
    from blackwell_sparsek.core import get_default_config

    checks: tuple[Callable[[], list[Finding]], ...] = (
        _package,
        _cpu,
        _attention_on_the_cpu,
        _gpu,
        _packed_kernels,
        _compiler,
        cache_findings,
        _kernels,
        _configuration,
        _integrations,
    )
    try:
        get_default_config()
    except ValueError as error:  # of the environment: every call raises it
        return [*_package(), Finding("environment", "problem", str(error))]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:
            text = f"this check failed: {type(error).__name__}: {error}"
            name = check.__name__.strip("_").replace("_", " ")
            findings.append(
                Finding(name, "problem", text, "Please report this with bsk --version.")
            )
    return findings


def kernel_for(device: str, forced: str | None = None) -> tuple[str | None, str]:
    """(kernel, plan) of a small ordinary call on `device`; (None, the reasons) where none takes it.

    fp16, which every device's kernels know; [1, 2, 128, 64].
    """
    import torch

    from blackwell_sparsek import _C, UnsupportedError
    from blackwell_sparsek.attention import _native_arguments

    dtype = torch.float64 if forced == "cpu_reference" else torch.float16
    x = torch.zeros(1, 2, 128, 64, dtype=dtype, device=device)
    arguments = _native_arguments(x, x, x, None, False, None, None, None, None, False, None)
    with_kernel: tuple[Any, ...] = (*arguments, forced)
    try:
        return _C.plan(*with_kernel)
    except UnsupportedError as error:
        return None, str(error)


def _package() -> list[Finding]:
    import platform
    from pathlib import Path

    import torch

    import blackwell_sparsek

    place = Path(blackwell_sparsek.__file__).parent
    found = [
        Finding("blackwell-sparsek", "ok", f"{blackwell_sparsek.__version__} in {place}"),
        Finding("Python", "ok", platform.python_version()),
    ]
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    state, remedy = ("ok", "") if version >= (2, 10) else ("problem", "pip install 'torch>=2.10'")
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    return [*found, Finding("torch", state, f"{torch.__version__}, {build}", remedy)]


def _cpu() -> list[Finding]:
    import torch

    from blackwell_sparsek.bench.runner import cpu_name, usable_cpus
    from blackwell_sparsek.core import get_build_info

    info = get_build_info()
    usable, threads = usable_cpus(), torch.get_num_threads()
    text = f"{cpu_name()}; {info['cpu_instruction_set']}; {threads} threads on {usable} CPUs"
    if threads > usable:
        return [
            Finding("CPU", "warning", text, f"More threads than CPUs: OMP_NUM_THREADS={usable}")
        ]
    return [Finding("CPU", "ok", text)]


def _attention_on_the_cpu() -> list[Finding]:
    return [_attention_on("cpu", "float32")]


def _attention_on(device: str, dtype_name: str) -> Finding:
    """Runs a small causal call and compares it with the fp64 oracle."""
    import torch

    from blackwell_sparsek import attention_forward
    from blackwell_sparsek.utils import reference_attention, validate_correctness

    name = f"attention on {device}"
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, dtype_name)
    Q, K, V = (
        torch.randn(1, 2, 100, 64, generator=generator).to(dtype).to(device) for _ in range(3)
    )
    try:
        with torch.no_grad():
            output = attention_forward(Q, K, V, is_causal=True)
        expected = reference_attention(Q, K, V, is_causal=True)
    except (RuntimeError, ValueError, TypeError) as error:
        return Finding(name, "problem", str(error))
    right, metrics = validate_correctness(output.cpu().double(), expected)
    error_text = f"largest error against fp64 {metrics['max_diff']:.1e} ({dtype_name})"
    if not right:
        return Finding(name, "problem", f"WRONG: {error_text}", "Please report this.")
    return Finding(name, "ok", error_text)


def _gpu() -> list[Finding]:
    import torch

    driver, driver_error = _driver_version()
    if driver is None:
        found = [
            Finding(
                "NVIDIA driver",
                "info",
                f"none: {driver_error}",
                "Without a GPU everything runs on the CPU; with one, install its driver.",
            )
        ]
    else:
        found = [Finding("NVIDIA driver", "ok", f"supports CUDA {driver}")]
    if not torch.cuda.is_available():
        if driver is not None and torch.version.cuda is None:
            remedy = "Install torch for CUDA: see https://pytorch.org/get-started/locally"
            found.append(Finding("GPU", "warning", "torch is built for the CPU", remedy))
        else:
            found.append(Finding("GPU", "info", "torch sees none"))
        return found
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        arch = f"sm_{properties.major}{properties.minor}"
        text = f"{properties.name}, {arch}, {properties.total_memory / 2**30:.0f} GiB"
        found.append(Finding(f"GPU {index}", "ok", text))
        kernel, reasons = kernel_for(f"cuda:{index}")
        if kernel is None:
            remedy = "Config(fallback='sdpa') or BSK_FALLBACK=sdpa computes with torch."
            found.append(Finding(f"attention on cuda:{index}", "warning", reasons, remedy))
        else:
            found.append(_attention_on(f"cuda:{index}", "float16"))
    return found


def _driver_version() -> tuple[str | None, str]:
    """(CUDA version that the driver supports, why there is none)."""
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, "libcuda.so.1 cannot be opened"
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None, "libcuda.so.1 does not answer"
    return f"{version.value // 1000}.{version.value % 1000 // 10}", ""


def _packed_kernels() -> list[Finding]:
    """What this build carries of the GPU kernels: sources, machine code, or nothing."""
    from pathlib import Path

    from blackwell_sparsek import _C

    name = "GPU kernels"
    folder = Path(_C.__file__).resolve().parent / "kernels"
    if not (folder / "source.digest").is_file():
        return [
            Finding(
                name,
                "warning",
                "left out of this build: calls on a GPU find no kernel",
                "Install the wheel, or build with: pip install -C cmake.define.BSK_PACK_KERNELS=ON .",
            )
        ]
    embedded = len(list((folder / "cubins").glob("*.bskcubin")))
    documented = len(_C.documented_kernels())
    text = f"sources, and {embedded} of {documented} documented kernels as machine code"
    if embedded < documented:
        text += "; the others are compiled at their first call"
    return [Finding(name, "ok", text)]


def _compiler() -> list[Finding]:
    """NVRTC as PyPI's packages install it, or as the linker finds it. Opens nothing."""
    import ctypes.util
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    paths = [
        str(path)
        for folder in folders
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so*"))
        if "builtins" not in path.name
    ]
    system = ctypes.util.find_library("nvrtc")
    if paths or system:
        return [Finding("NVRTC", "ok", paths[0] if paths else str(system))]
    remedy = "On a machine with a GPU: pip install nvidia-cuda-nvrtc"
    text = "not found; needed only to compile GPU kernels that the wheel does not hold"
    return [Finding("NVRTC", "info", text, remedy)]


def cache_findings() -> list[Finding]:
    import tempfile
    from pathlib import Path

    from blackwell_sparsek.core import get_default_config

    folder = Path(str(get_default_config().build_dir)).expanduser()
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:  # permission bits tell too little: of root, of read-only and of virtual file systems
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError:
        return [
            Finding(
                "kernel cache",
                "warning",
                f"{folder} cannot be written",
                "Set BSK_BUILD_DIR or Config(build_dir=...) to a folder of yours.",
            )
        ]
    if not folder.exists():
        return [Finding("kernel cache", "ok", f"{folder} (not made yet; writable)")]
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    text = f"{folder}: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB, writable"
    return [Finding("kernel cache", "ok", text)]


def _kernels() -> list[Finding]:
    import torch

    from blackwell_sparsek import _C

    devices = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    found = []
    for name, summary, only_when_forced in _C.kernels():
        answers = {device: kernel_for(device, name) for device in devices}
        takes = [device for device, (kernel, _) in answers.items() if kernel is not None]
        by_name = " (only when asked for by name)" if only_when_forced else ""
        if takes:
            text = f"runs on {', '.join(takes)}{by_name}: {summary}"
            found.append(Finding(f"kernel {name}", "ok", text))
        else:
            # The last line of a message is the reasons of the kernel that was asked for.
            whys = dict.fromkeys(why.rpartition(f"  {name}: ")[2] for _, why in answers.values())
            text = f"{summary}. Does not take [1, 2, 128, 64] here: {'; '.join(whys)}"
            found.append(Finding(f"kernel {name}", "info", text))
    return found


def _configuration() -> list[Finding]:
    from blackwell_sparsek import _C

    found = []
    for name, variable, value, origin in _C.options_in_force():
        source = variable if origin == "environment" else origin
        text = f"{value or 'chosen per call'} (from {source})"
        found.append(Finding(f"option {name}", "info", text))
    return found


def _integrations() -> list[Finding]:
    import importlib.metadata

    found = []
    for package in ("transformers", "xformers", "diffusers", "vllm", "matplotlib", "libcst"):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            extra = {"matplotlib": "plot", "libcst": "migrate"}.get(package, package)
            remedy = f"pip install blackwell-sparsek[{extra}]"
            found.append(Finding(package, "info", "not installed (optional)", remedy))
        else:
            found.append(Finding(package, "ok", version))
    return found


def _print(findings: list[Finding], runs: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table: Any = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = escape(finding.text)
        if finding.remedy and finding.state != "ok":
            text += f"\n[cyan]{escape(finding.remedy)}[/]"
        table.add_row(_MARKS[finding.state], escape(finding.name), text)
    console = Console()
    console.print(table)
    verdict = "Attention runs here." if runs else "Attention runs on nothing here."
    console.print(f"\n{verdict}", style="green" if runs else "red")
