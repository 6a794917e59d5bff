"""Makes PyTorch's CUDA wheel, the only one on PyPI, run without NVIDIA's libraries: `python remove_cuda.py SITE_PACKAGES`.

NVIDIA's packages take 2.7 GB, and the kernels for GPUs in the wheel itself 0.4 GB. A machine without a GPU runs none of them,
but the wheel's libraries are linked against them and do not load without them. So this

- puts libraries in their place, whose functions return 100: CUDA's code for "no device", other libraries' for an error;
- cuts the kernels out of PyTorch's own library, and deletes what only GPUs or builds use.

`torch.cuda.is_available()` is then False, as on any machine without a GPU. Needs gcc and binutils.
"""

import re
import shutil
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

NO_DEVICE = 100  # cudaErrorNoDevice
NVIDIA_LIBRARY = r"lib(?:cu|nv|nccl)\w*\.so\.\d+"
RUNTIME = "libcudart.so.13"  # also the name of its symbol version
RETURNS_TEXT = re.compile(r"\w+(String|Name)|ncclGetLastError")
NVIDIA_FUNCTION = re.compile(r"(?:cu|nccl|nv)\w+")
UNUSED = ("include", "share", "lib/libtorch_cuda_linalg.so", "lib/libcaffe2_nvrtc.so")
KERNELS = b".nv_fatbin"
PAGE = 4096
PT_LOAD, PT_NOTE = 1, 4
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # of an ELF file with 64 bits
# Type, flags, offset, virtual and physical address, size in the file and in memory, alignment.
SEGMENT = struct.Struct("<IIQQQQQQ")
SECTION = struct.Struct("<IIQQQQIIQQ")

Missing = dict[str, dict[str, set[str]]]


def main(site_packages: Path) -> None:
    """Rewrite the PyTorch below `site_packages`."""
    torch = site_packages / "torch"
    for name in UNUSED:
        path = torch / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    libraries = sorted((torch / "lib").glob("*.so"))
    for library, functions in find_missing(libraries).items():
        build_library(torch / "lib" / library, functions)
    for path in libraries:
        path.write_bytes(cut_section(path.read_bytes(), KERNELS))


def find_missing(libraries: list[Path]) -> Missing:
    """What `libraries` need of each NVIDIA library: functions by symbol version."""
    missing: Missing = defaultdict(lambda: defaultdict(set))
    unversioned: set[str] = set()
    for library in libraries:
        files = {}  # the library that has to define each symbol version
        for entry in read_output("readelf", "-V", "--wide", library).splitlines():
            if found := re.search(r"File: (\S+)", entry):
                file = found[1]
            elif found := re.search(r"Name: (\S+) .*Version: \d+", entry):
                files[found[1]] = file
        for needed in re.findall(rf"NEEDED.*\[({NVIDIA_LIBRARY})\]", read_output("readelf", "-d", library)):
            missing[needed]  # also a library that no function is needed of
        for symbol in re.findall(r" U (\S+)", read_output("nm", "-D", "--undefined-only", library)):
            name, _, version = symbol.partition("@")
            if re.fullmatch(NVIDIA_LIBRARY, files.get(version, "")):
                missing[files[version]][version].add(name)
            elif not version and NVIDIA_FUNCTION.fullmatch(name):
                unversioned.add(name)
    defined = {name for library in libraries for name in re.findall(r" [TWV] (\w+)", read_output("nm", "-D", library))}
    missing[RUNTIME][RUNTIME] |= unversioned - defined  # without a version, any library may define a function
    return missing


def build_library(path: Path, functions: dict[str, set[str]]) -> None:
    """Build a library whose functions, by symbol version, return NO_DEVICE, or its meaning where PyTorch asks for a text."""
    with TemporaryDirectory() as folder:
        source, versions = Path(folder) / "source.c", Path(folder) / "versions"
        names = sorted(set().union(*functions.values()))
        source.write_text("".join(map(define, names)))
        nodes = [f"{version} {{ {' '.join(f'{name};' for name in sorted(found))} }};\n" for version, found in functions.items()]
        versions.write_text("".join(nodes))
        script = [f"-Wl,--version-script={versions}"] if nodes else []
        options = ["-shared", "-fPIC", "-s", "-w", "-nostdlib", "-fno-builtin", f"-Wl,-soname,{path.name}"]
        subprocess.run(["gcc", *options, *script, "-o", path, source], check=True)


def define(function: str) -> str:
    """A function in C that fails."""
    if RETURNS_TEXT.fullmatch(function):
        return f'const char *{function}(void) {{ return "no CUDA device is detected"; }}\n'
    return f"long {function}(void) {{ return {NO_DEVICE}; }}\n"


def cut_section(elf: bytes, name: bytes) -> bytes:
    """An ELF file without the pages of a section: they stay unmapped, and nothing else changes its address."""
    header = list(HEADER.unpack_from(elf))
    found = next((section for title, *section in read_sections(elf) if title == name), None)
    if found is None:
        return elf
    offset, size = found
    start, end = -(-offset // PAGE) * PAGE, (offset + size) // PAGE * PAGE
    segments = []
    for segment in SEGMENT.iter_unpack(elf[header[5] : header[5] + header[9] * header[10]]):
        kind, flags, at, virtual, physical, in_file, in_memory, alignment = segment
        if kind == PT_LOAD and at <= start < end <= at + in_file:  # becomes two, on both sides of the cut
            before, skipped = start - at, end - at
            rest = in_file - skipped
            segments.append((kind, flags, at, virtual, physical, before, before, alignment))
            segments.append((kind, flags, start, virtual + skipped, physical + skipped, rest, rest, alignment))
        elif kind != PT_NOTE:  # the build id makes room for the new segment's entry
            moved = at - (end - start) if at >= end else at
            segments.append((kind, flags, moved, virtual, physical, in_file, in_memory, alignment))
    header[10] = len(segments)
    header[6] = header[12] = header[13] = 0  # no table of sections, which the loader does not read
    table = b"".join(SEGMENT.pack(*segment) for segment in segments)
    rest_of_start = elf[header[5] + len(table) : start]
    return HEADER.pack(*header) + elf[HEADER.size : header[5]] + table + rest_of_start + elf[end:]


def read_sections(elf: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size of each section."""
    header = HEADER.unpack_from(elf)
    sections = list(SECTION.iter_unpack(elf[header[6] : header[6] + header[11] * header[12]]))
    names = sections[header[13]][4]
    for section in sections:
        title = names + section[0]
        yield elf[title : elf.index(b"\0", title)], section[4], section[5]


def read_output(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
