#!/usr/bin/env python3
"""A provider of Backlot's for a folder: folder_provider.py ROOT. The protocol is docs/exec-provider.md."""
import contextlib, errno, json, os, shutil, stat, sys

ROOT = os.path.abspath(sys.argv[1])
KINDS = {errno.ENOENT: "not-found", errno.ENOTDIR: "wrong-kind", errno.EISDIR: "wrong-kind", errno.ENOTEMPTY: "wrong-kind",
         errno.EEXIST: "wrong-kind", errno.ELOOP: "wrong-kind", errno.EACCES: "denied", errno.EPERM: "denied",
         errno.EROFS: "denied", errno.ENOSPC: "full", errno.EDQUOT: "full", errno.ENAMETOOLONG: "invalid"}

class Refused(Exception):
    """What Backlot is told: one of the protocol's kinds of errors, and a reason."""

def at(path):
    return os.path.join(ROOT, path) if path else ROOT

def version(st):
    return f"{st.st_size:x}-{st.st_mtime_ns:x}"

def entry(st, **more):
    if not (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)):
        raise Refused("wrong-kind", "neither a file nor a folder")
    return dict(kind="dir" if stat.S_ISDIR(st.st_mode) else "file", size=st.st_size, mtime_ns=st.st_mtime_ns,
                perm=stat.S_IMODE(st.st_mode), version=version(st), **more)

def listing(r):
    rows = []
    for found in os.scandir(at(r["path"])):
        utf8 = os.fsencode(found.name).decode(errors="ignore") == found.name
        if utf8 and (found.is_file(follow_symlinks=False) or found.is_dir(follow_symlinks=False)):
            with contextlib.suppress(FileNotFoundError):  # Removed since the folder was read.
                rows.append(entry(found.stat(follow_symlinks=False), name=found.name))
        if len(rows) == 1000:
            answer(r, entries=rows, more=True)
            rows = []
    return dict(entries=rows)

def read(r):
    with open(os.open(at(r["path"]), os.O_RDONLY | os.O_NOFOLLOW), "rb", closefd=True) as f:
        before = version(os.fstat(f.fileno()))
        data = os.pread(f.fileno(), r["length"], r["offset"])
        if {before, version(os.fstat(f.fileno()))} != {r["version"]} or len(data) != r["length"]:
            raise Refused("version-mismatch", "another version is there")
    return dict(data=data)

def begin(r):
    os.makedirs(os.path.dirname(at(r["path"])), exist_ok=True)
    open(at(r["temp"]), "wb").close()
    return dict(state=r["temp"])

def part(r):
    with open(at(r["state"]), "r+b") as f:
        os.pwrite(f.fileno(), r["data"], r["offset"])
        if r["last"]:
            os.fsync(f.fileno())

def commit(r):
    temp, target, want = at(r["state"]), at(r["path"]), r["expect"]
    there = os.lstat(target) if os.path.lexists(target) else None
    if there and stat.S_ISDIR(there.st_mode):
        raise Refused("wrong-kind", "a folder has the name")
    planned = f"{r['size']:x}-{r['mtime_ns']:x}"
    if not os.path.exists(temp) and there and version(there) == planned and want != {"version": planned}:
        return dict(version=planned)  # It was done before, and the answer was lost.
    if os.stat(temp).st_size != r["size"]:
        raise Refused("invalid", f"{os.stat(temp).st_size} bytes arrived of {r['size']}")
    if want == "nothing" and there or isinstance(want, dict) and (not there or version(there) != want["version"]):
        raise Refused("version-mismatch", "something else is there")
    if r["perm"] is not None:
        os.chmod(temp, r["perm"])
    os.utime(temp, ns=(r["mtime_ns"], r["mtime_ns"]))
    os.replace(temp, target)
    return dict(version=version(os.stat(target)))

def delete(r):
    (os.rmdir if stat.S_ISDIR(os.lstat(at(r["path"])).st_mode) else os.unlink)(at(r["path"]))

OPS = {"probe": lambda r: {}, "stat": lambda r: dict(entry=entry(os.lstat(at(r["path"])))), "list": listing, "read": read,
       "begin-upload": begin, "upload-part": part, "commit": commit, "delete": delete,
       "abort": lambda r: os.unlink(at(r["state"])) if os.path.exists(at(r["state"])) else None,
       "make-dir": lambda r: os.makedirs(at(r["path"]), exist_ok=True), "rename": lambda r: os.rename(at(r["path"]), at(r["to"])),
       "space": lambda r: dict(zip(("total", "used", "available"), shutil.disk_usage(ROOT)))}

def answer(r, data=b"", **message):
    sys.stdout.buffer.write(json.dumps(dict(message, id=r["id"], data=len(data))).encode() + b"\n" + data)
    sys.stdout.buffer.flush()

sys.stdin.buffer.readline()  # Backlot's greeting. The answer says what this program can do.
print(json.dumps(dict(protocol=1, capabilities={"atomic-replace": True, "resume-upload": True, "mtime-step-ns": 1})), flush=True)
for line in sys.stdin.buffer:
    request = json.loads(line)
    request["data"] = sys.stdin.buffer.read(request.get("data", 0))
    try:
        if not os.path.isdir(ROOT):
            raise Refused("unreachable", f"{ROOT} is away")
        answer(request, **(OPS[request["op"]](request) or {}))
    except Refused as e:
        answer(request, error=e.args[0], message=e.args[1])
    except OSError as e:
        answer(request, error=KINDS.get(e.errno, "failed"), message=e.strerror)
