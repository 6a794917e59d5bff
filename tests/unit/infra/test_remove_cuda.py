"""Libraries that were linked against NVIDIA's load and work without them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.images.remove_cuda import KERNELS, NO_DEVICE, build_library, cut_section, find_missing

pytestmark = pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("readelf")), reason="needs gcc and binutils")

KERNEL_BYTES = 256 * 1024
LINKED = f"""
int cudaGetDeviceCount(int *count);
__attribute__((section("{KERNELS.decode()}"))) const char kernels[{KERNEL_BYTES}] = {{1}};
int devices(void) {{ int count; return cudaGetDeviceCount(&count); }}
int answer(void) {{ return 42; }}
"""
NVIDIA = "int cudaGetDeviceCount(int *count) { return 0; }"


def compile_library(path: Path, source: str, *options: str) -> Path:
    """A shared library of C source."""
    command = ["gcc", "-x", "c", "-", "-x", "none", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", str(path), *options]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def call(library: Path, function: str) -> subprocess.CompletedProcess[str]:
    """Call a function in a new process, which has none of NVIDIA's libraries."""
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).{function}())"
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A library with kernels, linked against a version of CUDA's runtime that is not there any more."""
    versions = tmp_path / "versions"
    versions.write_text("libcudart.so.13 { *; };")
    nvidia = compile_library(tmp_path / "libcudart.so.13", NVIDIA, f"-Wl,--version-script={versions}")
    library = compile_library(tmp_path / "libtorch_cuda.so", LINKED, str(nvidia), "-Wl,-rpath,$ORIGIN")
    nvidia.unlink()
    return library


def test_a_library_in_the_place_of_a_missing_one_answers_that_there_is_no_device(linked: Path) -> None:
    assert "libcudart.so.13: cannot open" in call(linked, "devices").stderr

    missing = find_missing([linked])
    assert missing == {"libcudart.so.13": {"libcudart.so.13": {"cudaGetDeviceCount"}}}
    for name, functions in missing.items():
        build_library(linked.with_name(name), functions)

    assert call(linked, "devices").stdout == f"{NO_DEVICE}\n"


def test_kernels_are_cut_out_and_the_rest_works_as_before(linked: Path) -> None:
    before = linked.read_bytes()
    linked.write_bytes(cut_section(before, KERNELS))

    assert len(before) - linked.stat().st_size > KERNEL_BYTES - 3 * 4096
    build_library(linked.with_name("libcudart.so.13"), {"libcudart.so.13": {"cudaGetDeviceCount"}})
    assert call(linked, "answer").stdout == "42\n"


def test_a_library_without_kernels_stays_as_it_is(tmp_path: Path) -> None:
    library = compile_library(tmp_path / "libother.so", "int answer(void) { return 42; }").read_bytes()
    assert cut_section(library, KERNELS) == library
