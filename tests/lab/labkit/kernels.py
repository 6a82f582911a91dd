# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels: fetched from Debian suites into the cache, or taken from a directory."""

import gzip
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .common import LabError, home, locked, say

META_PACKAGE = "linux-image-cloud-amd64"
# In later suites the image is split; the unversioned linux-base is only tools and stays out.
KERNEL_PACKAGE = re.compile(r"linux-(image|binary|modules|base)-[0-9]\S*")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
UNPACK = {".ko": lambda data: data, ".ko.gz": gzip.decompress, ".ko.xz": lzma.decompress,
          ".ko.zst": lambda data: subprocess.run(["zstd", "-dcq"], input=data, check=True,
                                                 stdout=subprocess.PIPE).stdout}


class Kernel:
    """A bootable image and its modules, in `root`."""

    def __init__(self, root):
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            raise LabError(f"no kernel directory {self.root}")
        self.modules = self._only(["lib/modules/*/", "usr/lib/modules/*/"], "lib/modules/VERSION")
        self.release = self.modules.name
        self.image = self._only(["vmlinuz", "vmlinuz-*", "boot/vmlinuz-*", "lib/modules/*/vmlinuz",
                                 "usr/lib/modules/*/vmlinuz"], "vmlinuz")
        self._files = None

    def _only(self, patterns, what):
        found = [path for pattern in patterns for path in sorted(self.root.glob(pattern))]
        if not found:
            raise LabError(f"{self.root} holds no {what}")
        if len({path.resolve() for path in found}) > 1:
            raise LabError(f"{self.root} holds more than one {what}")
        return found[0]

    def _find(self, name, needed=True):
        """(file, suffix) of the module `name`, None when it is built in (or not needed)."""
        if self._files is None:
            self._files = {}
            for path in self.modules.rglob("*.ko*"):
                stem, dot, kind = path.name.partition(".ko")
                if dot + kind in UNPACK:
                    self._files[stem.replace("-", "_")] = (path, dot + kind)
        key = name.replace("-", "_")
        if key in self._files:
            return self._files[key]
        listing = self.modules / "modules.builtin"
        builtin = listing.read_text().split() if listing.exists() else []
        if not needed or any(Path(line).stem.replace("-", "_") == key for line in builtin):
            return None
        raise LabError(f"kernel {self.release} has no module {name}")

    def load_order(self, needed, if_there=()):
        """[(name, ELF bytes)] of the named modules, each behind all that it depends on."""
        done = {}

        def visit(name):
            name = name.replace("-", "_")
            if name in done:
                return
            found = self._find(name)
            if not found:
                return
            path, suffix = found
            data = UNPACK[suffix](path.read_bytes())
            # What depmod would read: the package comes without modules.dep.
            depends = re.search(rb"\0depends=([^\0]*)\0", data)
            for needed in (depends.group(1).decode().split(",") if depends else []):
                if needed:
                    visit(needed)
            done[name] = data

        for name in needed:
            visit(name)
        for name in if_there:
            if self._find(name, False):
                visit(name)
        return list(done.items())


def _deb822_entries(text):
    for block in re.split(r"\n\s*\n", text):
        fields, key = {}, None
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and key:
                fields[key] += " " + line.strip()
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        if "deb" in fields.get("types", "").split():
            for uri in fields.get("uris", "").split():
                yield uri, fields.get("suites", "").split(), fields.get("components", "").split()


def _one_line_entries(text):
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            yield match.group(1), [match.group(2)], match.group(3).split()


def mirror():
    """The URI that this machine takes Debian's main archive from."""
    apt = Path("/etc/apt")
    entries = []
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            read = _deb822_entries if path.suffix == ".sources" else _one_line_entries
            entries += read(path.read_text())
    for uri, suites, components in entries:
        plain = [suite for suite in suites if not re.search("-security|/updates", suite)]
        if "main" in components and plain and re.search(r"/debian/?$", uri):
            return uri
    raise LabError("no entry in /etc/apt names a Debian archive to fetch a kernel from")


class _Apt:
    """apt with its own sources, lists and cache below `work`; the machine's stay untouched."""

    def __init__(self, work, suite):
        self.work = work
        for name in ("lists/partial", "cache/archives/partial", "parts", "debs"):
            (work / name).mkdir(parents=True)
        (work / "status").touch()
        (work / "sources.list").write_text(
            f"deb [arch=amd64 signed-by={KEYRING}] {mirror()} {suite} main\n")
        options = {
            "APT::Architecture": "amd64", "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",  # our directory is closed to the user _apt
            "Acquire::Languages": "none",
            "Dir::Cache": work / "cache", "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": work / "parts", "Dir::Etc::preferencesparts": work / "parts",
            "Dir::Etc::preferences": work / "none", "Dir::State": work,
            "Dir::State::lists": work / "lists", "Dir::State::status": work / "status",
        }
        self.options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def run(self, tool, *words):
        done = subprocess.run([tool, *self.options, *words], cwd=self.work / "debs", text=True,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              env={**os.environ, "LC_ALL": "C"})
        if done.returncode:
            reason = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise LabError(f"{tool} {words[0]} failed: "
                           + "; ".join(reason or [done.stderr[-300:]]))
        return done.stdout


def _download(suite, work, root):
    if not KEYRING.exists():
        raise LabError(f"{KEYRING} is missing: install debian-archive-keyring")
    apt = _Apt(work, suite)
    apt.run("apt-get", "update", "-q", "--error-on=any")
    related = apt.run("apt-cache", "depends", "--recurse", "--important", META_PACKAGE)
    packages = sorted({line for line in related.splitlines() if KERNEL_PACKAGE.fullmatch(line)})
    if not packages:
        raise LabError(f"{META_PACKAGE} of {suite} depends on no kernel image")
    apt.run("apt-get", "download", "-q", *packages)
    for deb in sorted((work / "debs").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
    (root / "packages").write_text("".join(f"{name}\n" for name in packages))


def fetch(suite):
    """The kernel of `suite`, downloaded unless the cache holds it."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", suite):
        raise LabError(f"'{suite}' is neither a Debian suite nor a kernel directory")
    cache = home() / "kernels"
    final = cache / suite
    with locked(cache / f".{suite}.lock"):
        if final.is_dir():
            return Kernel(final)
        say(f"fetching the {suite} kernel")
        for left in cache.glob(f".{suite}~*"):
            shutil.rmtree(left)  # of a fetch that was killed
        with tempfile.TemporaryDirectory(prefix=f".{suite}~", dir=cache) as temporary:
            root = Path(temporary) / "root"
            root.mkdir()
            _download(suite, Path(temporary) / "apt", root)
            Kernel(root)
            for useless in ("usr/share/doc", "usr/share/bug", "usr/share/lintian"):
                shutil.rmtree(root / useless, ignore_errors=True)
            root.rename(final)
        return Kernel(final)


def choose(name):
    """A suite's name, or a directory when it has a slash or exists."""
    return Kernel(name) if "/" in name or name == "." else fetch(name)


def cached():
    return [Kernel(path) for path in sorted((home() / "kernels").glob("[a-z]*")) if path.is_dir()]
