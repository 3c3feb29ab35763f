"""The file managers' extension at work on a real drive, with stand-ins for the file manager's own modules (gi).

argv: the extension's file, a folder of the drive with `plate.exr`, one outside of it. Prints `ok` at the end.
"""

import importlib.util
import os
import sys
import time
import types

extension, folder, outside = sys.argv[1:4]


class Menu:
    def __init__(self, **said):
        self.__dict__.update(said)

    def connect(self, _signal, work):
        self.activate = work


class Info:
    def __init__(self, path):
        self.uri, self.emblems, self.attributes, self.again = "file://" + path.replace(" ", "%20"), [], {}, 0

    def get_uri(self):
        return self.uri

    def add_emblem(self, name):
        self.emblems.append(name)

    def add_string_attribute(self, name, value):
        self.attributes[name] = value

    def invalidate_extension_info(self):
        self.again += 1


told, copied = [], []
provider = type("Provider", (), {})


def repeat(_milliseconds, work):
    """As the file manager's loop does, in no time."""
    while work():
        pass


def repository():
    """The least of gi.repository that the extension uses."""
    files = types.SimpleNamespace(
        InfoProvider=type("InfoProvider", (), {}),
        MenuProvider=type("MenuProvider", (), {}),
        ColumnProvider=type("ColumnProvider", (), {}),
        MenuItem=Menu,
        Column=Menu,
    )
    note = types.SimpleNamespace(new=lambda _title: types.SimpleNamespace(set_body=told.append))
    application = types.SimpleNamespace(get_default=lambda: None)
    clipboard = types.SimpleNamespace(set=copied.append)
    display = types.SimpleNamespace(get_default=lambda: types.SimpleNamespace(get_clipboard=lambda: clipboard))
    module = types.ModuleType("gi.repository")
    module.Nautilus = files
    module.GObject = types.SimpleNamespace(GObject=type("GObject", (), {}))
    module.GLib = types.SimpleNamespace(
        idle_add=lambda work, *args: work(*args),
        timeout_add=repeat,
        SOURCE_CONTINUE=True,
        SOURCE_REMOVE=False,
    )
    module.Gio = types.SimpleNamespace(Notification=note, Application=application)
    module.Gdk = types.SimpleNamespace(Display=display)
    return module


gi = types.ModuleType("gi")
gi.require_version = lambda _name, _version: None
gi.repository = repository()
sys.modules.update({"gi": gi, "gi.repository": gi.repository})
spec = importlib.util.spec_from_file_location("backlot_files", extension)
backlot = importlib.util.module_from_spec(spec)
spec.loader.exec_module(backlot)
face = backlot.Backlot()


def shown(path):
    info = Info(path)
    face.update_file_info(info)
    return info


def menu(*paths):
    infos = [Info(path) for path in paths]
    return {item.name.removeprefix("Backlot::"): item for item in face.get_file_items("a window", infos)}, infos


def do(name, *paths):
    """Activates an item and waits for what comes of it."""
    items, infos = menu(*paths)
    items[name].activate(items[name])
    until = time.monotonic() + 20
    while time.monotonic() < until and not infos[0].again:
        time.sleep(0.01)
    assert infos[0].again, name


def eventually(what, is_so):
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until, what
        time.sleep(0.05)


plate = os.path.join(folder, "the plate.exr")
# Elsewhere it says and offers nothing.
stranger = os.path.join(outside, "other.exr")
assert shown(stranger).emblems == [] and shown(stranger).attributes == {}
assert menu(stranger)[0] == {} and menu(plate, stranger)[0] == {}

assert shown(plate).emblems == ["emblem-web"], shown(plate).emblems
assert shown(plate).attributes == {"backlot_state": "at the site"}
assert face.get_columns()[0].attribute == "backlot_state"
assert {"pin", "hydrate", "evict", "path-windows"} <= set(menu(plate)[0])

do("hydrate", plate)
eventually("hydrated", lambda: shown(plate).emblems == ["emblem-default"])
do("evict", plate)
eventually("evicted", lambda: shown(plate).emblems == ["emblem-web"])
do("pin", plate)
eventually("pinned", lambda: shown(plate).emblems == ["emblem-favorite"])
assert "unpin" in menu(plate)[0] and "pin" not in menu(plate)[0]
assert told == [], told
# What is refused is said.
do("evict", plate)
eventually("told", lambda: told != [])
assert "pinned" in told[0], told
do("unpin", plate)
eventually("unpinned", lambda: "pin" in menu(plate)[0])

items, _ = menu(plate)
items["path-windows"].activate(items["path-windows"])
eventually("copied", lambda: copied != [])
assert copied == ["S:\\show\\the plate.exr"], copied
# A daemon that does not answer holds nobody up, and is said.
del told[:]
backlot._sockets.clear()
backlot._sockets[folder.rsplit("/", 1)[0]] = "/nowhere/backlot.sock"
do("hydrate", plate)
eventually("told", lambda: told == ["the drive's daemon does not answer"])
print("ok")
