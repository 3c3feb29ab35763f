"""Blender without a window: `save-plain FILE`, `save-packed FILE` (compressed), `open FILE`."""

import sys

import bpy

verb, path = sys.argv[-2:]


def done(result):
    assert result == {"FINISHED"}, result


def save(count):
    # The settings of a session count versions; a module has none of its own.
    bpy.context.preferences.filepaths.save_version = 1
    done(bpy.ops.wm.save_as_mainfile(filepath=path, compress=verb == "save-packed"))
    print(f"saved {count}", flush=True)


if verb == "open":
    done(bpy.ops.wm.open_mainfile(filepath=path))
    # Reading a mesh to its last vertex: the file is whole.
    assert all(len(o.data.vertices) == len([v.co[:] for v in o.data.vertices]) for o in bpy.data.objects)
    sizes = {o.name: len(o.data.vertices) for o in bpy.data.objects}
    assert sizes["Cube"] == 8 and sizes.get("Sphere", 255 * 256 + 2) == 255 * 256 + 2, sizes
    print("objects:", *sorted(sizes), flush=True)
else:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.mesh.primitive_cube_add(location=(1, 2, 3))
    save(1)
    bpy.ops.mesh.primitive_uv_sphere_add(segments=256, ring_count=256)
    save(2)
