# SPDX-License-Identifier: GPL-2.0-or-later
"""Push and pull: a tar stream through a tar in the guest, renamed into place when complete."""

import os
import shutil
import stat
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

from .common import LabError

# $1 the destination, $2 the name to take when the destination is a directory. Unpacks next to it.
RECEIVE = r'''
to=$1
case $to in */) mkdir -p "$to" ;; esac
[ -d "$to" ] && to=${to%/}/$2
mkdir -p "$(dirname "$to")" && new=$(mktemp -d "$(dirname "$to")/.lab-push-XXXXXX") || exit 1
trap 'rm -rf "$new"' EXIT
tar -xf - -C "$new" && mv -fT "$new/it" "$to"
'''
SEND = r'''[ -e "$1" ] || { echo "no such file" >&2; exit 1; }
[ -d "$1" ] && { tar -cf - -C "$1" .; exit; }
tar -chf - -C "$(dirname "$1")" "$(basename "$1")"'''


def _root_owned(info):
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mtime = int(info.mtime)
    return info


def push(guest, host, path):
    if not os.path.exists(host):
        raise LabError(f"no file {host}")
    read_fd, write_fd = os.pipe()
    failures = []

    def pack():
        try:
            with os.fdopen(write_fd, "wb") as out, tarfile.open(
                    fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, dereference=False) as tar:
                tar.add(os.path.realpath(host), "it", filter=_root_owned)
        except (OSError, tarfile.TarError) as error:
            failures.append(error)

    errors = bytearray()
    with guest.connect() as connection, os.fdopen(read_fd, "rb") as stream:
        connection.start(["sh", "-c", RECEIVE, "lab-push", path, os.path.basename(
            os.path.abspath(host))])
        packer = threading.Thread(target=pack, daemon=True)
        packer.start()
        code = connection.finish(stream, stderr=errors.extend)
    packer.join()
    unread = [error for error in failures if not isinstance(error, BrokenPipeError)]
    if unread:
        raise LabError(f"cannot read {host}: {unread[0]}")
    if code:
        raise LabError(f"cannot push to {path} in guest {guest.name}: "
                       f"{errors.decode(errors='replace').strip() or f'tar ended with {code}'}")


def _unpack(stream, folder):
    """Unpack files, directories and links below `folder`, refusing anything else.

    True when the stream had the directory itself, ".", not just a file.
    """
    later = []
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for info in tar:
            parts = [part for part in info.name.split("/") if part not in ("", ".")]
            if ".." in parts:
                raise LabError(f"the guest sent a path with '..': {info.name}")
            path = Path(folder, *parts)
            if info.isdir():
                path.mkdir(exist_ok=True)
                later.append((path, info))
                continue
            if path.parent.resolve() != path.parent:
                raise LabError(f"the guest sent a path through a link: {info.name}")
            if info.issym():
                path.symlink_to(info.linkname)
            elif info.isreg():
                with open(path, "xb") as out:
                    shutil.copyfileobj(tar.extractfile(info), out, 1 << 20)
                later.append((path, info))
            else:
                raise LabError(f"cannot pull {info.name}: neither file, directory nor link")
    for path, info in reversed(later):
        os.chmod(path, stat.S_IMODE(info.mode))
        os.utime(path, (info.mtime, info.mtime))
    return any(path == Path(folder) for path, _ in later)


def pull(guest, path, host):
    final = Path(host)
    if final.is_dir():
        final = final / os.path.basename(path.rstrip("/"))
    if not final.parent.is_dir():
        raise LabError(f"no directory {final.parent}")
    errors = bytearray()
    failures, whole = [], []
    with tempfile.TemporaryDirectory(prefix=".lab-pull-", dir=final.parent) as temporary:
        folder = Path(temporary).resolve() / "it"
        folder.mkdir()
        read_fd, write_fd = os.pipe()

        def unpack():
            try:
                with os.fdopen(read_fd, "rb") as stream:
                    whole.append(_unpack(stream, folder))
                    while stream.read(1 << 16):
                        pass
            except (LabError, OSError, tarfile.TarError) as error:
                failures.append(error)

        with guest.connect() as connection, os.fdopen(write_fd, "wb", 0) as out:
            connection.start(["sh", "-c", SEND, "lab-pull", path])
            unpacker = threading.Thread(target=unpack, daemon=True)
            unpacker.start()
            try:
                code = connection.finish(None, out.write, errors.extend)
            except BrokenPipeError:
                code = 0  # the unpacker says why
        unpacker.join()
        if code:
            raise LabError(f"cannot pull {path} from guest {guest.name}: "
                           f"{errors.decode(errors='replace').strip() or f'tar ended with {code}'}")
        if failures:
            raise LabError(f"cannot pull {path}: {failures[0]}")
        # A directory arrives as the contents of `folder`, a file alone in it.
        os.replace(folder if whole[0] else next(folder.iterdir()), final)


def exec_streams():
    """(stdout, stderr) callables that write through at once."""
    def writer(stream):
        def put(data):
            stream.buffer.write(data)
            stream.buffer.flush()
        return put
    return writer(sys.stdout), writer(sys.stderr)
