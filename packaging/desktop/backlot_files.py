"""Backlot in the file managers Nautilus and Nemo: emblems by state, a column, and a context menu.

Runs inside the file manager (python3-nautilus, nemo-python). What a file is, it asks of the file itself
(`user.backlot.state`, which fetches nothing); what is to be done, of the daemon, on its socket.

Owns: the words and emblems for states, what the menu offers. Invariants: nothing is asked of files outside of drives; the file
manager waits for no answer of the daemon's.
"""

import http.client
import json
import os
import socket
import subprocess
import threading
import time
from urllib.parse import unquote, urlparse

import gi

# Each of the two has a folder of its own for extensions, and this file is in both.
HOST = "Nemo" if "nemo" in os.path.abspath(__file__) else "Nautilus"
for _version in ("4.1", "4.0", "3.0"):
    try:
        gi.require_version(HOST, _version)
        break
    except ValueError:
        continue

from gi.repository import Gio, GLib, GObject  # noqa: E402

if HOST == "Nemo":
    from gi.repository import Nemo as Files  # noqa: E402
else:
    from gi.repository import Nautilus as Files  # noqa: E402

# Emblems of the icon naming specification, which every icon theme has, and words for people.
STATES = {
    "online": ("emblem-web", "at the site"),
    "hydrating": ("emblem-downloads", "partly here"),
    "cached": ("emblem-default", "here"),
    "pinned": ("emblem-favorite", "kept here"),
    "local": ("emblem-documents", "only on this machine"),
    "dirty": ("emblem-synchronizing", "being written"),
    "queued": ("emblem-synchronizing", "waits to be sent"),
    "uploading": ("emblem-synchronizing", "being sent"),
    "failed": ("emblem-important", "could not be sent"),
    "conflict": ("emblem-important", "changed at the site too"),
}
SYSTEMS = (("linux", "Linux"), ("macos", "macOS"), ("windows", "Windows"))

# Not BACKLOT_…: the program takes such for settings of its own.
PROGRAM = os.environ.get("FILES_BACKLOT_PROGRAM", "backlot")
# Seconds for which the list of mounts is believed, and for which a daemon may think.
MOUNTS_FOR = 5
PATIENCE = 120
# Seconds after which files are looked at again once something was done with them.
SHOWN_AGAIN = (0, 1, 3, 10)

_mounts = (0.0, [])
_sockets = {}


def mounts():
    """Where drives are mounted."""
    global _mounts
    now = time.monotonic()
    if _mounts[0] and now - _mounts[0] < MOUNTS_FOR:
        return _mounts[1]
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            if after.startswith("fuse.backlot "):
                # The kernel writes blanks and the like as octal numbers.
                point = before.split(" ")[4]
                for code in ("040", "011", "012", "134"):
                    point = point.replace("\\" + code, chr(int(code, 8)))
                found.append(point)
    _mounts = (now, found)
    return found


def drive_of(path):
    """The mount point of the drive that a path is on; None elsewhere."""
    for point in mounts():
        if path == point or path.startswith(point.rstrip("/") + "/"):
            return point
    return None


def path_of(info):
    """The path of a file of the file manager; None for what is no file."""
    uri = urlparse(info.get_uri())
    return unquote(uri.path, errors="surrogateescape") if uri.scheme == "file" else None


def attribute(path, name):
    """A fact about a file of a drive; None where there is none."""
    try:
        return os.getxattr(path, "user.backlot." + name, follow_symlinks=False).decode("utf-8", "replace")
    except OSError:
        return None


class Refused(Exception):
    """What the daemon says against it, for people."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("backlot", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(sock, method, route, body=None):
    """An answer of the daemon's."""
    connection = _Connection(sock)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, "/v1/" + route, text, {"Content-Type": "application/json"} if text else {})
        answer = connection.getresponse()
        said = json.loads(answer.read() or b"null")
    except PermissionError as error:
        raise Refused("the drive belongs to another user") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Refused("the drive's daemon does not answer") from error
    finally:
        connection.close()
    if answer.status >= 400:
        hint = said.get("hint")
        raise Refused(said.get("title", str(answer.status)) + (": " + hint if hint else ""))
    return said


def candidates():
    """Where daemons may listen: as the settings say, and where the package's drives do."""
    if "FILES_BACKLOT_SOCKET" in os.environ:
        yield os.environ["FILES_BACKLOT_SOCKET"]
    try:
        shown = subprocess.run([PROGRAM, "config", "show", "--json"], capture_output=True, timeout=10, check=True)
        # Values are as TOML writes them.
        rows = {row["key"]: row["value"].strip("\"'") for row in json.loads(shown.stdout)}
        yield rows.get("drive.socket") or os.path.join(rows["drive.data-dir"], "backlot.sock")
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        pass
    yield "/var/lib/backlot/backlot.sock"


def socket_of(point):
    """The socket of the daemon that serves a drive."""
    if point in _sockets:
        return _sockets[point]
    why = Refused("no daemon answers for " + point)
    for sock in candidates():
        if not os.path.exists(sock):
            continue
        try:
            if ask(sock, "GET", "status")["mount_point"] == point:
                _sockets[point] = sock
                return sock
        except Refused as refused:
            why = refused
    raise why


def below(paths):
    """The drive's mount point, and the paths as the drive knows them."""
    point = drive_of(paths[0])
    return point, [os.path.relpath(path, point) for path in paths]


def pin(paths):
    point, inside = below(paths)
    who = os.environ.get("USER", str(os.getuid()))
    ask(socket_of(point), "POST", "pins", {"paths": inside, "who": who, "note": "in the file manager"})


def unpin(paths):
    point, inside = below(paths)
    ask(socket_of(point), "POST", "pins/remove", {"what": inside})


def make_available(paths):
    point, inside = below(paths)
    ask(socket_of(point), "POST", "hydrations", {"paths": inside})


def free_space(paths):
    point, inside = below(paths)
    report = ask(socket_of(point), "POST", "cache/evict", {"paths": inside})
    if report["kept_files"]:
        raise Refused("%d of the files were kept: pinned, in use, or made on this machine" % report["kept_files"])


def spelled(paths, system):
    """Paths as another system spells them, one a line."""
    run = subprocess.run([PROGRAM, "path", "--os", system, "--", *paths], capture_output=True, timeout=10, check=False)
    if run.returncode:
        raise Refused(run.stderr.decode("utf-8", "replace").removeprefix("error: ").strip())
    return run.stdout.decode("utf-8", "replace").rstrip("\n")


def copy(text):
    """Puts text on the clipboard."""
    from gi.repository import Gdk

    display = Gdk.Display.get_default()
    if hasattr(display, "get_clipboard"):
        display.get_clipboard().set(text)
    else:
        from gi.repository import Gtk

        Gtk.Clipboard.get(Gdk.SELECTION_CLIPBOARD).set_text(text, -1)


def tell(what):
    """Says something to the user."""
    note = Gio.Notification.new("Backlot")
    note.set_body(what)
    application = Gio.Application.get_default()
    if application is not None:
        application.send_notification(None, note)


class Backlot(GObject.GObject, Files.InfoProvider, Files.MenuProvider, Files.ColumnProvider):
    """What the file manager asks."""

    def update_file_info(self, info):
        path = path_of(info)
        if path is None or drive_of(path) is None:
            return
        state = attribute(path, "state")
        if state is None and attribute(path, "pin") == "1":
            state = "pinned"
        emblem, words = STATES.get(state, (None, ""))
        if emblem:
            info.add_emblem(emblem)
        info.add_string_attribute("backlot_state", words)

    def get_columns(self):
        return [
            Files.Column(
                name="Backlot::state", attribute="backlot_state", label="On this machine", description="Where the bytes are"
            )
        ]

    # Nautilus before 43, and Nemo, give the window first.
    def get_file_items(self, *args):
        files = args[-1]
        paths = [path_of(info) for info in files]
        if not paths or None in paths:
            return []
        points = {drive_of(path) for path in paths}
        if len(points) != 1 or None in points:
            return []
        items = []

        def offer(name, label, work, again=True):
            item = Files.MenuItem(name="Backlot::" + name, label=label)
            item.connect("activate", lambda _item: self._do(work, paths, files if again else []))
            items.append(item)

        if all(attribute(path, "pin") == "1" for path in paths):
            offer("unpin", "Do not keep here any longer", unpin)
        else:
            offer("pin", "Always keep here", pin)
        offer("hydrate", "Make available now", make_available)
        offer("evict", "Free up space", free_space)
        for system, label in SYSTEMS:
            offer("path-" + system, "Copy path for " + label, self._copier(system), again=False)
        return items

    def get_background_items(self, *_args):
        return []

    @staticmethod
    def _copier(system):
        def work(paths):
            text = spelled(paths, system)
            GLib.idle_add(copy, text)

        return work

    @staticmethod
    def _do(work, paths, files):
        def run():
            try:
                work(paths)
            except Refused as refused:
                GLib.idle_add(tell, str(refused))

        # The file manager does not wait.
        thread = threading.Thread(target=run, name="backlot", daemon=True)
        thread.start()

        def shown_again():
            for info in files:
                info.invalidate_extension_info()
            return GLib.SOURCE_REMOVE

        def let_it_run():
            # A file manager keeps Python's lock while it runs nothing of Python: the thread comes on while this sleeps.
            time.sleep(0.005)
            if thread.is_alive():
                return GLib.SOURCE_CONTINUE
            # Bytes take their time to come or to go.
            for wait in SHOWN_AGAIN:
                GLib.timeout_add(wait * 1000, shown_again)
            return GLib.SOURCE_REMOVE

        GLib.timeout_add(20, let_it_run)
