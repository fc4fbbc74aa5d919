"""Take from this package what macOS or Windows do not have, in every process.

With this folder first in PYTHONPATH, and LIKE=macos or LIKE=windows, the package's modules see a system without it;
tests and other libraries see all of Linux. Windows differs in more than can be taken away: this shows what does not
hold there, not that everything does.
"""
# ruff: noqa: PTH112, PTH116, PTH208 - audit hooks and the module os itself are about paths as they are

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "onnxheadprune"
LIKE = os.environ.get("LIKE", "")
MACOS = {"O_TMPFILE", "O_PATH", "copy_file_range", "posix_fadvise", "sched_getaffinity", "memfd_create"}
WINDOWS = MACOS | {
    *(
        "O_NOFOLLOW",
        "O_NONBLOCK",
        "O_DIRECTORY",
        "pread",
        "pwrite",
        "link",
        "fchown",
        "fchmod",
        "chown",
        "fork",
    ),
    *("statvfs", "geteuid", "getuid", "getloadavg", "mkfifo"),
}
ABSENT = {"macos": MACOS, "windows": WINDOWS}.get(LIKE, set())
MODULES = ("fcntl", "resource", "pwd", "grp", "termios") if LIKE == "windows" else ()
_busy = False


class System(ModuleType):
    """The module `os` without some of it."""

    def __getattr__(self, name: str) -> Any:
        if name in ABSENT:
            raise AttributeError(f"module 'os' has no attribute {name!r}")
        return getattr(os, name)

    def open(self, path: Any, flags: int, *more: Any, **named: Any) -> int:
        """Open a file; Windows opens no folders."""
        if LIKE == "windows" and os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return os.open(path, flags, *more, **named)


SYSTEM = System("os")


class Loader(importlib.abc.Loader):
    """Loads a module of the package that imports the other `os`."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        kept = {name: sys.modules.get(name) for name in MODULES}
        sys.modules.update(dict.fromkeys(MODULES))  # type: ignore[arg-type]
        try:
            self.loader.exec_module(module)
        finally:
            for name, found in kept.items():
                if found is None:
                    sys.modules.pop(name, None)
                else:
                    sys.modules[name] = found
        for name, value in vars(module).items():
            if value is os:
                setattr(module, name, SYSTEM)
            elif isinstance(value, Path) and value.parts[:2] == ("/", "proc"):
                setattr(module, name, Path("/none", *value.parts[2:]))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the package's modules as ever."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name.partition(".")[0] != PACKAGE:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        if found is not None and found.loader is not None:
            found.loader = Loader(found.loader)
        return found


def _is_package_at_work() -> bool:
    """Return whether the package called, itself or through the standard library, and no other library."""
    frame = sys._getframe(2)
    while frame.f_globals.get("__name__", "").partition(".")[0] in sys.stdlib_module_names:
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE  # type: ignore[no-any-return]


def _is_open(path: Any) -> bool:
    try:
        found = os.stat(path)
        handles = os.listdir("/proc/self/fd")
    except (OSError, TypeError, ValueError):
        return False
    for handle in handles:
        try:
            other = os.fstat(int(handle))
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino):
            return True
    return False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what the other system refuses: /proc, and on Windows to rename or remove a file that is open here."""
    global _busy
    if _busy or event not in ("open", "os.listdir", "os.rename", "os.remove") or not arguments:
        return
    _busy = True
    try:
        path = arguments[0]
        if event in ("open", "os.listdir"):
            if isinstance(path, (str, Path)) and str(path).startswith("/proc/") and _is_package_at_work():
                raise FileNotFoundError(2, "No such file or directory", str(path))
        elif LIKE == "windows" and arguments[-1] == -1 and _is_package_at_work():
            for one in arguments[:2] if event == "os.rename" else arguments[:1]:
                if not os.path.isdir(one) and _is_open(one):
                    raise PermissionError(13, "The file is open in another program", str(one))
    finally:
        _busy = False


if ABSENT:
    sys.meta_path.insert(0, Finder())
    sys.addaudithook(_watch)
