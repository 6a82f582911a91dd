# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's root: a tree collected from the host and written as a cpio archive (newc)."""

import os
import re
import stat
import subprocess
from pathlib import Path, PurePosixPath

from .common import LabError

DIRECTORIES = ["dev", "etc", "proc", "sys", "run", "tmp", "root", "home", "var", "var/tmp",
               "usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "mnt"]
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
         "var/run": "/run"}
# What python3 works without.
STDLIB_LEFT_OUT = re.compile(r"(^|/)(__pycache__|tests?|idlelib|tkinter|turtledemo|ensurepip|"
                             r"lib2to3|pydoc_data|config-[^/]*)(/|$)|\.a$")


class Tree:
    """Guest path -> what is there. Paths are relative to the root; parents come first."""

    def __init__(self):
        self.nodes = {}
        for path in DIRECTORIES:
            self.nodes[path] = (stat.S_IFDIR | (0o1777 if path.endswith("tmp") else 0o755), 0, b"")
        for path, target in LINKS.items():
            self.nodes[path] = (stat.S_IFLNK | 0o777, 0, target.encode())

    def _resolve(self, path):
        """`path` with symbolic links in its directories followed, directories made on the way."""
        todo = [part for part in PurePosixPath("/", path).parts[1:]]
        done, hops = [], 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            here = "/".join([*done, part])
            mode, _, data = self.nodes.get(here, (None, 0, b""))
            if todo and mode is not None and stat.S_ISLNK(mode):
                hops += 1
                if hops > 40:
                    raise LabError(f"too many symbolic links in guest path {path}")
                target = PurePosixPath(data.decode())
                if target.is_absolute():
                    done = []
                todo = [part for part in target.parts if part != "/"] + todo
                continue
            if todo and mode is None:
                self.nodes[here] = (stat.S_IFDIR | 0o755, 0, b"")
            done.append(part)
        return "/".join(done)

    def add(self, path, data, mode=0o644, mtime=0):
        """A file; `data` is bytes or the host's Path to read when writing."""
        self.nodes[self._resolve(path)] = (stat.S_IFREG | mode, mtime, data)

    def add_host(self, source, path):
        """One file, link or directory of the host, as it is, at guest `path`."""
        info = os.lstat(source)
        where = self._resolve(path)
        if not where:
            return
        mtime = int(info.st_mtime)
        if stat.S_ISLNK(info.st_mode):
            self.nodes[where] = (info.st_mode, mtime, os.fsencode(os.readlink(source)))
        elif stat.S_ISDIR(info.st_mode):
            old = self.nodes.get(where)
            if old and stat.S_ISLNK(old[0]):
                return  # an overlay's /bin goes into /usr/bin
            self.nodes[where] = (info.st_mode, mtime, b"")
        elif stat.S_ISREG(info.st_mode):
            self.nodes[where] = (info.st_mode, mtime, Path(source))
        else:
            raise LabError(f"{source} is neither file, directory nor link")

    def add_tree(self, source, path="/", leave_out=None):
        """A directory of the host with all below it, over what is there."""
        if not os.path.isdir(source):
            raise LabError(f"no directory {source}")
        for folder, folders, files in os.walk(source):
            folders.sort()
            for name in sorted(folders + files):
                below = os.path.relpath(os.path.join(folder, name), source)
                if not (leave_out and leave_out.search(below)):
                    self.add_host(os.path.join(folder, name), os.path.join(path, below))
            if leave_out:
                folders[:] = [name for name in folders if not leave_out.search(
                    os.path.relpath(os.path.join(folder, name), source))]

    def add_path(self, path):
        """A file of the host under its own name, and what its name leads to through links."""
        for _ in range(40):
            parts = PurePosixPath(os.path.abspath(path)).parts
            for depth in range(2, len(parts) + 1):
                prefix = os.path.join(*parts[:depth])
                if os.path.islink(prefix):
                    if prefix[1:] not in LINKS:
                        self.add_host(prefix, prefix)
                    path = os.path.join(os.path.dirname(prefix), os.readlink(prefix),
                                        *parts[depth:])
                    break
            else:
                self.add_host(path, os.path.abspath(path))
                return
        raise LabError(f"too many symbolic links in {path}")

    def add_program(self, source, path=None):
        """A program of the host with its interpreter or shared libraries, python with its own."""
        if not os.path.isfile(source):
            raise LabError(f"no program {source}")
        real = os.path.realpath(source)
        if path:
            self.add_host(real, path)
        else:
            self.add_path(source)
        with open(real, "rb") as file:
            first = file.readline(256)
        if first.startswith(b"#!") and first[2:].split():
            self.add_program(os.fsdecode(first[2:].split()[0]))
            return
        libraries = _libraries([real])
        if re.fullmatch(r"python3\.[0-9]+", os.path.basename(real)):
            libraries |= self._add_stdlib(real)
        for library in sorted(libraries):
            self.add_path(library)

    def _add_stdlib(self, python):
        script = "import sysconfig as s; print(s.get_path('stdlib'), s.get_path('platstdlib'))"
        done = subprocess.run([python, "-I", "-c", script], check=True, text=True,
                              stdout=subprocess.PIPE)
        extensions = []
        for folder in sorted(set(done.stdout.split())):
            self.add_tree(folder, folder, STDLIB_LEFT_OUT)
            extensions += [str(path) for path in Path(folder, "lib-dynload").glob("*.so")]
            for path in Path(folder).glob("*.py"):
                if path.is_symlink():
                    self.add_path(str(path))
        return _libraries(extensions)

    def write(self, path):
        """Write the archive; parents precede their children."""
        with open(path, "wb") as out:
            for number, name in enumerate(sorted(self.nodes), 1):
                mode, mtime, data = self.nodes[name]
                if isinstance(data, Path):
                    data = data.read_bytes()
                _write_entry(out, number, name, mode, mtime, data)
            _write_entry(out, 0, "TRAILER!!!", 0, 0, b"")


def _write_entry(out, number, name, mode, mtime, data):
    encoded = os.fsencode(name) + b"\0"
    fields = [number, mode, 0, 0, 1, max(mtime, 0), len(data), 0, 0, 0, 0, len(encoded), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields)
    out.write(head + encoded + bytes(-(len(head) + len(encoded)) % 4))
    out.write(data)
    out.write(bytes(-len(data) % 4))


def _libraries(files):
    """Every shared library, loader included, that `files` need; none for static programs."""
    if not files:
        return set()
    done = subprocess.run(["ldd", *files], text=True, capture_output=True,
                          env={**os.environ, "LC_ALL": "C"})
    missing = re.search(r"(\S+) => not found", done.stdout)
    if missing:
        raise LabError(f"shared library {missing.group(1)} of {files[0]} is not on this machine")
    return set(re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", done.stdout, re.MULTILINE))


def base(hostname, labd, agent, modules, network):
    """The tree every guest has: busybox, labd, the agent, an init that starts them."""
    tree = Tree()
    busybox = next((path for path in ("/bin/busybox", "/usr/bin/busybox")
                    if os.path.exists(path)), None)
    if not busybox or _libraries([busybox]):
        raise LabError("install busybox-static: guests need a static busybox")
    applets = subprocess.run([busybox, "--list-full"], check=True, text=True,
                             stdout=subprocess.PIPE).stdout.split()
    for applet in applets:
        name = os.path.basename(applet)
        folder = "usr/sbin" if "sbin/" in applet else "usr/bin"
        tree.nodes[f"{folder}/{name}"] = (stat.S_IFLNK | 0o777, 0, b"/usr/bin/busybox")
    tree.add("/usr/bin/busybox", Path(busybox), 0o755)
    files = Path(__file__).resolve().parent.parent / "guest"
    tree.add_tree(files)
    tree.add("/etc/hostname", hostname.encode() + b"\n")
    tree.add("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n".encode())
    tree.add("/etc/lab/network", (network or "").encode())
    # Each name has its own thousand of pids, so that those of two guests rarely meet.
    tree.add("/etc/lab/first-pid", f"{1000 + sum(hostname.encode()) % 29 * 1000}\n".encode())
    tree.add("/etc/lab/modules", "".join(f"{name}\n" for name, _ in modules).encode())
    for name, data in modules:
        tree.add(f"/etc/lab/{name}.ko", data)
    tree.add("/usr/sbin/labd", Path(labd), 0o755)
    inittab = "::respawn:/usr/sbin/labd\n"
    if agent:
        tree.add("/usr/sbin/vmgraft-agent", Path(agent), 0o755)
        inittab += "::respawn:/usr/sbin/vmgraft-agent\n"
    tree.add("/etc/inittab", inittab.encode())
    return tree
