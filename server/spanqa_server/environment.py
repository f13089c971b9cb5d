"""The installed Triton, that of the pip package nvidia-pytriton or of an image: its files, libraries and variables."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spanqa_server.errors import InstallationError

STUB_NAME = "triton_python_backend_stub"
INSTALLED_IN = Path("/opt/tritonserver")
"""Where NVIDIA's images keep Triton."""
FOLDER_VARIABLE = "SPANQA_TRITON"
"""The environment variable that names the folder of another Triton, with `bin` and `backends`."""
PLATFORMS = {"tensorrt_plan": "tensorrt", "onnxruntime_onnx": "onnxruntime", "pytorch_libtorch": "pytorch"}
"""Triton's older names of backends, by which a configuration may call them."""
BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")
PACKAGES = {"pytriton": "nvidia-pytriton", "tritonclient": "tritonclient[grpc]", "tokenizers": "tokenizers"}
"""What serving imports or runs, by the name it is installed under."""
LIBRARIES = "nvidia_pytriton.libs"
INSTALL_HINT = "pip install 'spanqa[serve]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Triton:
    """Where the parts of an installed Triton lie.

    Args:
        binary: The tritonserver program.
        backend: The folder of the Python backend's files.
        stub: The Python backend's program for the running Python.
        libraries: The folder of the shared libraries that all of them need; None where they are found by themselves.
        libpython: The running Python's shared library.
        backends: The folder of all backends, where there are others than Python's; None where there are none.
        options: Arguments that this Triton is started with.
    """

    binary: Path
    backend: Path
    stub: Path
    libraries: Path | None
    libpython: Path
    backends: Path | None = None
    options: tuple[str, ...] = ()


def libpython_name() -> str:
    """Return the name under which Triton's stub asks for the running Python's shared library."""
    return f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"


def libpython_folders() -> tuple[Path, ...]:
    """Return the folders where the running Python may keep its shared library, likeliest first."""
    libdir = sysconfig.get_config_var("LIBDIR") or ""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = [Path(libdir), Path(sys.base_prefix) / "lib", Path(libdir) / multiarch]
    # Python's own build may name a folder of the machine that it was built on.
    return tuple(folder for folder in folders if folder.is_absolute())


def _loadable(library: Path | str) -> bool:
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True


def _libpython_of_the_loader(name: str) -> Path | None:
    """Return where the dynamic loader finds the library, as the map of this process shows once it is loaded."""
    if not _loadable(name):
        return None
    paths = (line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text("utf-8").splitlines())
    return next((Path(path) for path in paths if Path(path).name == name), None)


def find_libpython(folders: Sequence[Path] | None = None) -> Path:
    """Find the running Python's shared library and check that it loads.

    With it missing Triton's stub cannot start, and Triton waits a minute for it instead of failing.

    Args:
        folders: Where to look; by default the folders that Python names, then the dynamic loader's.

    Raises:
        InstallationError: If there is none that loads.
    """
    name = libpython_name()
    searched = libpython_folders() if folders is None else tuple(folders)
    for folder in searched:
        library = folder / name
        if os.path.isfile(library) and _loadable(library):  # also below a folder that may not be entered
            return library
    found = _libpython_of_the_loader(name) if folders is None else None
    if found:
        return found
    raise InstallationError(
        f"{name} was not found in {', '.join(map(str, searched))}: Triton runs models inside it. Install it "
        f"(Debian and Ubuntu: libpython{sys.version_info.major}.{sys.version_info.minor}), or use a Python built "
        "with --enable-shared"
    )


def check_packages(packages: dict[str, str] | None = None) -> None:
    """Check that every package which serving needs is installed.

    Args:
        packages: Names to import, with the names that they are installed under.

    Raises:
        InstallationError: Naming the missing ones.
    """
    wanted = PACKAGES if packages is None else packages
    missing = [installed for name, installed in wanted.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise InstallationError(f"serving needs {', '.join(missing)}, which is not installed: {INSTALL_HINT}")


def folder_of_triton() -> Path | None:
    """Return the folder of a Triton that pip did not install; None where pip's is the one to run.

    An image's own is taken where the package is missing, and any other where the environment names it.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    has_package = importlib.util.find_spec("pytriton") is not None
    return INSTALLED_IN if not has_package and INSTALLED_IN.is_dir() else None


def has_backend(name: str) -> bool:
    """Say whether the Triton to run has a backend, by the name that a configuration gives."""
    folder = folder_of_triton()
    return folder is not None and (folder / "backends" / PLATFORMS.get(name, name)).is_dir()


def _triton_in(folder: Path, folders: Sequence[Path] | None) -> Triton:
    """Find the parts of a Triton as NVIDIA's images have it, whose stub must be of the running Python's version."""
    check_packages({name: installed for name, installed in PACKAGES.items() if name != "pytriton"})
    backend = folder / "backends" / "python"
    stub = backend / STUB_NAME
    for part in (folder / "bin" / "tritonserver", *(backend / name for name in BACKEND_FILES), stub):
        if not part.exists():
            raise InstallationError(
                f"the Triton in {folder} lacks {part}: name another with {FOLDER_VARIABLE}, or {INSTALL_HINT}"
            )
    wanted = libpython_name()
    if wanted.encode() not in stub.read_bytes():
        raise InstallationError(
            f"{stub} is not of this Python, which would need {wanted}: run spanqa with the Python of its image"
        )
    return Triton(
        binary=folder / "bin" / "tritonserver",
        backend=backend,
        stub=stub,
        libraries=None,
        libpython=find_libpython(folders),
        backends=backend.parent,
    )


def find_triton(folders: Sequence[Path] | None = None) -> Triton:
    """Find the parts of the installed Triton that suit the running Python.

    Args:
        folders: Where to look for libpython; None for where this Python says it is.

    Raises:
        InstallationError: If a part is missing.
    """
    if folder := folder_of_triton():
        return _triton_in(folder, folders)
    check_packages()
    spec = importlib.util.find_spec("pytriton")
    root = Path(next(iter((spec and spec.submodule_search_locations) or [""])))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    triton = root / "tritonserver"
    parts = Triton(
        binary=triton / "bin" / "tritonserver",
        backend=triton / "backends" / "python",
        stub=triton / "python_backend_stubs" / version / STUB_NAME,
        libraries=root.parent / LIBRARIES,
        libpython=find_libpython(folders),
        options=("--allow-gpu-metrics=false",),  # it has none
    )
    if not parts.stub.is_file():
        raise InstallationError(
            f"the installed Triton has no Python backend for Python {version}: use 3.10, 3.11 or 3.12"
        )
    for part in (parts.binary, *(parts.backend / name for name in BACKEND_FILES), root.parent / LIBRARIES):
        if not part.exists():
            raise InstallationError(f"the package nvidia-pytriton lacks {part}: reinstall it, {INSTALL_HINT}")
    return parts


def backends_in(folder: Path, triton: Triton) -> Path:
    """Return the backend directory that Triton is pointed at; where it has none of its own, made of links.

    The stub is a link, so that the library path relative to its real place still holds.
    """
    if triton.backends:
        return triton.backends
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    for name in BACKEND_FILES:
        (python / name).symlink_to(triton.backend / name)
    (python / STUB_NAME).symlink_to(triton.stub)
    return python.parent


ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""glibc's settings for Triton and its stubs: with an arena for each thread and thresholds that adapt, every thread that
meets a long document would keep the memory that it took; so what one has given back serves the next."""
THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Torch's threads that spin while they wait for each other would take the cores from the other stages: beside one busy
process on two cores, a window took five times as long."""


def variables_for(folder: Path, triton: Triton) -> dict[str, str]:
    """Return Triton's environment variables; libpython alone is linked into a private folder of the library path.

    A whole library folder on the path would shadow the libraries that Triton brings along.
    """
    private = folder / "lib"
    private.mkdir(parents=True)
    (private / triton.libpython.name).symlink_to(triton.libpython)
    variables = dict(os.environ)
    inherited = variables.get("LD_LIBRARY_PATH", "")
    # An image's Triton is told of its libraries by the image, whose own come first.
    places = [str(triton.libraries), str(private), inherited] if triton.libraries else [inherited, str(private)]
    variables["LD_LIBRARY_PATH"] = ":".join(filter(None, places))
    # The Python inside the stub takes its packages from the first python3 of PATH.
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables.get('PATH', os.defpath)}"
    for name, value in (ALLOCATOR | THREADS).items():
        variables.setdefault(name, value)
    return variables
