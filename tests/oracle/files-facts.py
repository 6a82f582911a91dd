# SPDX-License-Identifier: GPL-2.0-or-later
# Runs in the guest: prints what the kernel itself says of a process's open files, as JSON.
import array
import ctypes
import fcntl
import hashlib
import json
import os
import stat
import sys
import termios

F_GETSIG, F_GETOWN_EX, F_GETPIPE_SZ, F_GET_SEALS = 11, 16, 1032, 1034
SYS_kcmp, SYS_pidfd_open, SYS_pidfd_getfd = 312, 434, 438
libc = ctypes.CDLL(None, use_errno=True)


def fdinfo(pid, fd):
    with open(f"/proc/{pid}/fdinfo/{fd}") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def unread(fd):
    """The bytes in a pipe, which stay there (tee into one of ours)."""
    n = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, n)
    if not n[0]:
        return b""
    out, back = os.pipe2(os.O_NONBLOCK)
    fcntl.fcntl(back, fcntl.F_SETPIPE_SZ, 1 << 20)
    libc.tee(fd, back, 1 << 20, 2)
    data = b""
    try:
        while chunk := os.read(out, 1 << 20):
            data += chunk
    except BlockingIOError:
        pass
    os.close(out)
    os.close(back)
    return data


def describe(pid, pidfd, fd):
    info = fdinfo(pid, fd)
    flags = int(info["flags"], 8)
    st = os.stat(f"/proc/{pid}/fd/{fd}")
    fact = {
        "fd": fd, "link": os.readlink(f"/proc/{pid}/fd/{fd}"), "pos": int(info["pos"]),
        "flags": flags & ~os.O_CLOEXEC, "cloexec": int(bool(flags & os.O_CLOEXEC)),
        "st_mode": st.st_mode, "rdev": st.st_rdev, "dev": st.st_dev, "ino": st.st_ino,
        "size": st.st_size, "mtime_ns": st.st_mtime_ns, "uid": st.st_uid, "gid": st.st_gid,
        "nlink": st.st_nlink,
    }
    if flags & os.O_PATH:
        return fact
    mine = libc.syscall(SYS_pidfd_getfd, pidfd, fd, 0)
    owner = fcntl.fcntl(mine, F_GETOWN_EX, bytes(8))
    fact["owner_type"] = int.from_bytes(owner[:4], "little")
    fact["owner"] = int.from_bytes(owner[4:], "little")
    fact["owner_sig"] = fcntl.fcntl(mine, F_GETSIG)
    if stat.S_ISFIFO(st.st_mode):
        fact["capacity"] = fcntl.fcntl(mine, F_GETPIPE_SZ)
        if flags & os.O_ACCMODE != os.O_WRONLY:
            data = unread(mine)
            fact["unread"] = len(data)
            fact["md5"] = hashlib.md5(data).hexdigest()
    if fact["link"].startswith("/memfd:"):
        fact["seals"] = fcntl.fcntl(mine, F_GET_SEALS)
    os.close(mine)
    return fact


def main():
    pid = int(sys.argv[1])
    pidfd = libc.syscall(SYS_pidfd_open, pid, 0)
    with open(f"/proc/{pid}/status") as f:
        umask = next(int(line.split()[1], 8) for line in f if line.startswith("Umask"))
    fds = sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    files = [describe(pid, pidfd, fd) for fd in fds]
    for i, fact in enumerate(files):
        fact["same_as"] = next(fd for fd in fds
                               if fd == fact["fd"] or
                               libc.syscall(SYS_kcmp, pid, pid, 0, fd, fact["fd"]) == 0)
    json.dump({"cwd": os.readlink(f"/proc/{pid}/cwd"), "root": os.readlink(f"/proc/{pid}/root"),
               "umask": umask, "fds": files}, sys.stdout)


main()
